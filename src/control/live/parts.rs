//! What only some nodes have: the store, webhooks. Their figures are read from what they tell scrapes,
//! so that a part that is new needs nothing here but a line in [`PARTS`].

use std::collections::BTreeMap;

/// The parts, and what the names of their metrics begin with.
const PARTS: [(&str, &str); 3] = [
    ("store", "tidewheel_store_"),
    ("hooks", "tidewheel_hook_"),
    ("auth_webhook", "tidewheel_auth_webhook_"),
];

/// Figures by their names, without what all begin with; labels stay.
pub(super) type Figures = BTreeMap<String, f64>;

/// The parts that tell something in a text for scrapers. Buckets of histograms are left out.
pub(super) fn read(text: &str) -> BTreeMap<&'static str, Figures> {
    let mut parts: BTreeMap<&str, Figures> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let of = |(part, prefix): &(&'static str, &str)| Some((*part, name.strip_prefix(*prefix)?));
        let Some((part, figure)) = PARTS.iter().find_map(of) else {
            continue;
        };
        if let (false, Ok(value)) = (figure.contains("_bucket"), value.parse()) {
            let figures = parts.entry(part).or_default();
            figures.insert(figure.to_owned(), value);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_that_tell_something() {
        let text = "# TYPE tidewheel_store_commits_total counter\n\
                    tidewheel_store_commits_total 7\n\
                    tidewheel_store_commit_seconds_bucket{le=\"0.1\"} 7\n\
                    tidewheel_hook_events_total{outcome=\"sent\"} 3\n\
                    tidewheel_uptime_seconds 1.5\n";
        let parts = read(text);
        assert_eq!(
            parts.keys().copied().collect::<Vec<_>>(),
            ["hooks", "store"]
        );
        assert_eq!(
            parts["store"],
            Figures::from([("commits_total".to_owned(), 7.0)])
        );
        assert_eq!(parts["hooks"]["events_total{outcome=\"sent\"}"], 3.0);
        assert!(read("").is_empty());
    }
}

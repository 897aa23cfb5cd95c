//! A run as one page: self-contained, to be opened from a file, sent to someone, or printed.
//!
//! ```text
//! Outcome ─▶ summary (headline, verdict, key figures)
//!         ─▶ charts ─▶ lines, plot ─▶ axis      SVG, drawn here
//!         ─▶ tables, facts
//! ```
//! Style and script are part of the page, and its content policy forbids it to load anything. The
//! script only shows values under the pointer; without it nothing is missing but these.
//! Everything that comes out of an [`Outcome`] goes through [`markup::escaped`].

mod axis;
mod charts;
mod facts;
mod lines;
mod markup;
mod plot;
mod summary;
mod tables;
mod timeline;

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::outcome::Outcome;
use markup::{date, escaped};

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// Writes the page to a file.
pub fn write(path: &Path, outcome: &Outcome) -> anyhow::Result<()> {
    fs::write(path, page(outcome)).with_context(|| format!("write {}", path.display()))
}

/// The page.
pub fn page(outcome: &Outcome) -> String {
    let headline = summary::headline(outcome);
    let body = [
        masthead(outcome, &headline),
        summary::verdict(outcome),
        summary::strip(outcome),
        charts::section(outcome),
        tables::section(outcome),
        facts::section(outcome),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{scenario}: {title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        scenario = escaped(&outcome.scenario),
        title = escaped(&headline),
    )
}

fn masthead(outcome: &Outcome, headline: &str) -> String {
    let about: String = outcome
        .about
        .lines()
        .map(|line| format!("{}<br>\n", escaped(line.trim())))
        .collect();
    let about = about.trim_end_matches("<br>\n");
    let about = if about.is_empty() {
        String::new()
    } else {
        format!("<p class=\"about\">{about}</p>\n")
    };
    format!(
        "<header>\n<p class=\"eyebrow\">Tidewheel load report<span>{}</span></p>\n\
         <h1>{}</h1>\n<p class=\"headline\">{}</p>\n{about}</header>\n",
        date(outcome.began_unix_ms),
        escaped(&outcome.scenario),
        escaped(headline),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{LedgerLine, Turn};
    use crate::outcome_samples as samples;

    /// Every opened element is closed, in order; that also finds markup that was not escaped.
    fn assert_well_formed(page: &str) {
        const VOID: [&str; 4] = ["meta", "link", "br", "!doctype"];
        let (mut open, mut rest) = (Vec::new(), page);
        while let Some((_, after)) = rest.split_once('<') {
            let (tag, after) = after.split_once('>').expect("a tag ends");
            rest = after;
            let name = tag.split([' ', '\n']).next().unwrap();
            if let Some(name) = name.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "before {rest:.80}");
            } else if !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
                if name == "script" || name == "style" {
                    rest = &rest[rest.find("</").expect("it ends")..];
                }
            }
        }
        assert!(open.is_empty(), "{open:?} are left open");
    }

    #[test]
    fn every_shape_of_run_makes_a_whole_page() {
        let mut no_turns = samples::empty();
        no_turns.scenario.clear();
        no_turns.about.clear();
        let mut bare = samples::empty();
        bare.turns.push(Turn::default());
        let runs = [
            samples::one_turn(),
            samples::beside_baseline(1),
            samples::beside_baseline(5),
            samples::idle(),
            samples::failed(),
            no_turns,
            bare,
        ];
        for run in runs {
            let page = page(&run);
            assert_well_formed(&page);
            assert!(
                !page.contains("NaN") && !page.contains(">inf"),
                "{}",
                run.scenario
            );
        }
    }

    #[test]
    fn the_page_loads_nothing_from_anywhere() {
        let page = page(&samples::beside_baseline(2));
        for mark in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(mark), "{mark}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn what_comes_from_outside_is_escaped_wherever_it_stands() {
        const EVIL: &str = "</script><b onload='x'>\"&\u{2028}é";
        let mut run = samples::beside_baseline(1);
        run.scenario = EVIL.into();
        run.about = EVIL.into();
        run.command = EVIL.into();
        run.machine.processor = EVIL.into();
        run.machine.kernel = EVIL.into();
        run.settings.insert(EVIL.into(), serde_json::json!([EVIL]));
        run.failures = vec![EVIL.into()];
        for turn in &mut run.turns {
            turn.subject = EVIL.into();
            turn.phase = Some(EVIL.into());
            turn.failures = vec![EVIL.into()];
            turn.audit.first_fault = Some(EVIL.into());
            turn.times.insert(EVIL.into(), turn.latency.clone());
            turn.counts.insert(EVIL.into(), 1);
            turn.ledger.push(LedgerLine {
                labels: EVIL.into(),
                count: 1.0,
            });
        }
        let page = page(&run);
        assert!(!page.contains("<b ") && !page.contains("'x'>"));
        // The page's own script, and the values of each chart.
        let scripts = page.matches("<script").count();
        assert_eq!(page.matches("</script>").count(), scripts);
        assert_well_formed(&page);
    }

    #[test]
    fn numbers_beyond_reason_do_not_break_a_chart() {
        let mut run = samples::one_turn();
        let turn = &mut run.turns[0];
        turn.deliveries = u64::MAX;
        turn.latency.curve = vec![(0.0, 0.0), (50.0, 1e12), (100.0, f64::INFINITY)];
        turn.latency.max_ms = f64::MAX;
        for (index, sample) in turn.series.iter_mut().enumerate() {
            sample.deliveries_per_s = [0.0, 1e300, f64::NAN][index % 3];
            sample.p50_ms = Some([0.0, 1e300, f64::INFINITY][index % 3]);
            sample.server_rss_bytes = Some([0, u64::MAX][index % 2]);
        }
        let page = page(&run);
        assert_well_formed(&page);
        assert!(!page.contains("NaN") && !page.contains("inf,") && !page.contains("inf\""));
    }
}

//! Requests that were turned away because of who asked.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::exposition::{Exposition, Source, Type};

/// Why.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// Keys are asked for, and none came.
    NoKey,
    /// What came is no key.
    BadKey,
    /// The key's scopes do not allow it.
    Scope,
    /// No key is asked for, and `Host` is no name of this listener.
    Host,
    /// No key is asked for, and a page of another origin is behind it.
    Origin,
}

const REFUSALS: [(Refusal, &str); 5] = [
    (Refusal::NoKey, "no_key"),
    (Refusal::BadKey, "bad_key"),
    (Refusal::Scope, "scope"),
    (Refusal::Host, "host"),
    (Refusal::Origin, "origin"),
];

/// How many, by the reason.
#[derive(Default, Debug)]
pub(in crate::control) struct Refusals([AtomicU64; REFUSALS.len()]);

impl Refusals {
    pub(super) fn count(&self, refusal: Refusal) {
        if let Some(cell) = self.0.get(refusal as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn of(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize].load(Ordering::Relaxed)
    }
}

impl Source for Refusals {
    fn write(&self, out: &mut Exposition) {
        let help = "Requests to the admin listener turned away because of who asked.";
        out.family("tidewheel_admin_refused_total", Type::Counter, help);
        for ((_, name), cell) in REFUSALS.iter().zip(&self.0) {
            out.sample(&[("reason", name)], cell.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition::Format;
    use crate::metrics::lint;

    #[test]
    fn every_reason_has_its_own_line() {
        let refusals = Refusals::default();
        for (place, (refusal, _)) in REFUSALS.iter().enumerate() {
            assert_eq!(*refusal as usize, place);
            refusals.count(*refusal);
        }
        let mut out = Exposition::new(Format::OpenMetrics);
        refusals.write(&mut out);
        let text = out.finish();
        assert_eq!(text.matches("\"} 1\n").count(), REFUSALS.len());
        lint::check(&text, Format::OpenMetrics);
        lint::check_documented(&text);
    }
}

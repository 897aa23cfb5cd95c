//! The certificates of a running server: loaded at its start, and again when they have changed.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use rustls::ServerConfig;

use crate::bus::Outlet;
use crate::control::Secured;
use crate::metrics::exposition::{Exposition, Source, Type};
use crate::protocol::Timestamp;
use crate::reactor::tls::{Loaded, Shown, TlsLoader, TlsSettings};
use crate::reactor::{Clock, Mail};

/// One listener's certificates.
#[derive(Debug)]
pub(super) struct Listening {
    loader: TlsLoader,
    /// What it was told at the start.
    pub config: Arc<ServerConfig>,
    pub shown: Vec<Shown>,
}

impl Listening {
    /// Loads what a listener is to show, if it speaks TLS at all.
    pub fn start(
        settings: Option<&TlsSettings>,
        clock: Clock,
    ) -> anyhow::Result<Option<Listening>> {
        let Some(settings) = settings else {
            return Ok(None);
        };
        let unix_s = clock.now().unix_ms / 1_000;
        let loader = TlsLoader::new(settings.clone(), unix_s)?;
        let Loaded { config, shown } = loader.load()?;
        tell(&shown, clock);
        Ok(Some(Listening {
            loader,
            config,
            shown,
        }))
    }
}

/// Until when what the listeners show is good, in seconds since 1970: the earliest end of each
/// listener's certificates; zero where it has none, or none that says so.
#[derive(Default, Debug)]
pub(super) struct Expiry {
    public: AtomicI64,
    admin: AtomicI64,
}

impl Expiry {
    /// Of what is shown at the start.
    pub fn of(public: Option<&Listening>, admin: Option<&Listening>) -> Expiry {
        let expiry = Expiry::default();
        if let Some(listening) = public {
            Expiry::note(&expiry.public, &listening.shown);
        }
        if let Some(listening) = admin {
            Expiry::note(&expiry.admin, &listening.shown);
        }
        expiry
    }

    fn note(end: &AtomicI64, shown: &[Shown]) {
        let ends = shown.iter().filter_map(|it| it.not_after_unix_s);
        end.store(ends.min().unwrap_or_default(), Ordering::Relaxed);
    }
}

impl Source for Expiry {
    fn write(&self, out: &mut Exposition) {
        let ends = [("public", &self.public), ("admin", &self.admin)];
        let ends = ends.map(|(listener, end)| (listener, end.load(Ordering::Relaxed)));
        let mut ends = ends.iter().filter(|(_, end)| *end != 0).peekable();
        if ends.peek().is_some() {
            let help = "When the first of the certificates that a listener shows ends, in seconds \
                        since 1970 (UTC).";
            let name = "tidewheel_tls_certificate_expiry_timestamp_seconds";
            out.family(name, Type::Gauge, help);
        }
        for (listener, end) in ends {
            out.sample(&[("listener", listener)], end);
        }
    }
}

/// Loads certificates again, while connections stay as they are.
pub struct Certificates {
    public: Option<Listening>,
    admin: Option<Listening>,
    outlets: Vec<Outlet<Mail>>,
    secured: Secured,
    clock: Clock,
    expiry: Arc<Expiry>,
    /// What both listeners show now.
    shown: Mutex<Vec<Shown>>,
}

impl Certificates {
    pub(super) fn new(
        public: Option<Listening>,
        admin: Option<Listening>,
        outlets: Vec<Outlet<Mail>>,
        secured: Secured,
        (clock, expiry): (Clock, Arc<Expiry>),
    ) -> Certificates {
        let both = public.iter().chain(&admin);
        let shown = both.flat_map(|it| it.shown.clone()).collect();
        Certificates {
            public,
            admin,
            outlets,
            secured,
            clock,
            expiry,
            shown: Mutex::new(shown),
        }
    }

    /// Reads all files again. Handshakes that begin from now on are shown what is in them; sessions
    /// are resumed as before. What cannot be loaded leaves in force what was: both listeners or
    /// none. Logs which are shown.
    ///
    /// # Errors
    /// Where one cannot be loaded.
    pub fn reload(&self) -> anyhow::Result<()> {
        let (public, admin) = self.load().context("certificates")?;
        let mut all = Vec::new();
        if let Some(Loaded { config, shown }) = public {
            Expiry::note(&self.expiry.public, &shown);
            all.extend(shown);
            for outlet in &self.outlets {
                // A core that has drained accepts nothing any more.
                let _drained = outlet.send(Mail::Tls(Arc::clone(&config)), 0);
            }
        }
        if let Some(Loaded { config, shown }) = admin {
            Expiry::note(&self.expiry.admin, &shown);
            all.extend(shown);
            self.secured.set(config);
        }
        tell(&all, self.clock);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(())
    }

    /// Logs which certificates are over, or soon will be: for once a day.
    pub fn check_dates(&self) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        warn(&shown, self.clock);
    }

    fn load(&self) -> anyhow::Result<(Option<Loaded>, Option<Loaded>)> {
        let load = |listening: &Option<Listening>| {
            let loaded = listening.as_ref().map(|it| it.loader.load());
            loaded.transpose()
        };
        let public = load(&self.public).context("public listener")?;
        let admin = load(&self.admin).context("admin listener")?;
        Ok((public, admin))
    }
}

/// Logs which certificates are shown from now on, and what is wrong with their dates.
fn tell(shown: &[Shown], clock: Clock) {
    for certificate in shown {
        let until = certificate.not_after_unix_s.map_or("unknown".into(), |it| {
            let unix_ms = u64::try_from(it).unwrap_or_default().saturating_mul(1_000);
            Timestamp::from_unix_ms(unix_ms).to_string()
        });
        let sha256 = &certificate.fingerprint;
        tracing::info!(until, sha256, "showing {certificate}");
    }
    warn(shown, clock);
}

fn warn(shown: &[Shown], clock: Clock) {
    let unix_s = (clock.now().unix_ms / 1_000) as i64;
    for warning in shown.iter().filter_map(|it| it.warning(unix_s)) {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition::Format;
    use crate::metrics::lint;

    #[test]
    fn the_first_end_of_a_listener_s_certificates_is_told() {
        let shown = |end| Shown {
            file: None,
            fingerprint: String::new(),
            not_before_unix_s: None,
            not_after_unix_s: end,
        };
        let expiry = Expiry::default();
        let text = |expiry: &Expiry| {
            let mut out = Exposition::new(Format::Prometheus);
            expiry.write(&mut out);
            out.finish()
        };
        Expiry::note(&expiry.admin, &[shown(None)]);
        assert_eq!(text(&expiry), "", "nothing is known");
        Expiry::note(
            &expiry.public,
            &[shown(Some(300)), shown(Some(200)), shown(None)],
        );
        let text = text(&expiry);
        let series = lint::check(&text, Format::Prometheus);
        lint::check_documented(&text);
        let name = "tidewheel_tls_certificate_expiry_timestamp_seconds{listener=\"public\"}";
        assert_eq!((series.len(), series[name]), (1, 200.0));
    }
}

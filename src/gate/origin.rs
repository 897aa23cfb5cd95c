//! Which pages may open a connection: the `Origin` that browsers send (RFC 6454), held against a list.
//!
//! | on the list | means |
//! |---|---|
//! | `https://app.example.com` | this origin; a port is the scheme's own where none stands there |
//! | `https://*.example.com:8443` | every name under `example.com`, and not `example.com` itself |
//! | `*.example.com` | the same with any scheme, on the scheme's own port |
//! | `null` | pages without an origin: files, sandboxed frames |
//! | `*` | every page |
//!
//! Programs that are no browsers send no `Origin`, and none is asked of them: it protects users whose
//! browsers carry credentials to us on some other page's behalf, and nobody else.

use std::fmt;

use thiserror::Error;

/// The most entries of a list.
const ORIGINS_MAX: usize = 256;

/// Why a text is no entry of the list.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BadOrigin {
    /// It is none of the forms.
    #[error(
        "{0:?} is no origin; write https://app.example.com, https://*.example.com, *.example.com, \
         null or *, without a path"
    )]
    Malformed(String),
    /// There are too many.
    #[error("{0} origins are too many; at most 256 are taken, and *.example.com covers many")]
    TooMany(usize),
}

/// An entry of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Pattern {
    Any,
    Null,
    Origin {
        /// None where any will do.
        scheme: Option<Box<str>>,
        /// In lower case; what stands behind `*` where the entry begins with one.
        host: Box<str>,
        /// Names that end with `host` are meant, and not `host` itself.
        below: bool,
        /// None for the scheme's own.
        port: Option<u16>,
    },
}

/// Which pages may open a connection. The default: those of this server itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Origins {
    listed: Box<[Pattern]>,
    /// Where the list is empty: pages of this machine may, too. For a listener that nobody else
    /// reaches.
    pub loopback: bool,
    text: Box<str>,
}

/// An origin as a browser writes it (RFC 6454 §6.2).
struct Parts<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Parts<'a> {
    fn new(origin: &'a str) -> Option<Parts<'a>> {
        let (scheme, authority) = origin.split_once("://")?;
        let is_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
            return None;
        }
        let (host, port) = split_port(authority)?;
        Some(Parts { scheme, host, port })
    }

    fn port(&self) -> Option<u16> {
        self.port.or_else(|| port_of(self.scheme))
    }
}

/// Splits `host:port`; an IPv6 address stands in brackets, which stay.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            (host, Some(port.parse().ok().filter(|_| is_number)?))
        }
        _ => (authority, None),
    };
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_host = |b: u8| b.is_ascii_graphic() && !b"/?#@[]:\\".contains(&b);
    let is_address = |b: u8| b.is_ascii_hexdigit() || b":.%".contains(&b);
    let is_good = match inner {
        Some(address) => address.bytes().all(is_address),
        None => host.bytes().all(is_host),
    };
    (is_good && !host.is_empty()).then_some((host, port))
}

/// The port that a scheme has where none is written.
fn port_of(scheme: &str) -> Option<u16> {
    let known = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443)];
    let found = known.iter().find(|(n, _)| scheme.eq_ignore_ascii_case(n));
    found.map(|(_, port)| *port)
}

impl Pattern {
    fn new(text: &str) -> Option<Pattern> {
        match text {
            "*" => return Some(Pattern::Any),
            "null" => return Some(Pattern::Null),
            _ => {}
        }
        let (scheme, host, port) = match Parts::new(text) {
            Some(Parts { scheme, host, port }) => (Some(scheme), host, port),
            // Without a scheme only a wildcard: a bare name is more likely a mistake.
            None if text.starts_with("*.") => {
                let (host, port) = split_port(text)?;
                (None, host, port)
            }
            None => return None,
        };
        let (host, below) = match host.strip_prefix('*') {
            Some(rest) => (rest, true),
            None => (host, false),
        };
        let is_good = !host.contains('*') && (!below || (host.starts_with('.') && host.len() > 1));
        is_good.then(|| Pattern::Origin {
            scheme: scheme.map(|s| s.to_ascii_lowercase().into()),
            host: host.to_ascii_lowercase().into(),
            below,
            port,
        })
    }

    fn matches(&self, origin: &str) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Null => origin == "null",
            Pattern::Origin {
                scheme,
                host,
                below,
                port,
            } => Parts::new(origin).is_some_and(|parts| {
                let same_scheme = scheme
                    .as_ref()
                    .is_none_or(|scheme| parts.scheme.eq_ignore_ascii_case(scheme));
                let cut = parts.host.len().checked_sub(host.len());
                let same_host = cut.is_some_and(|cut| {
                    let ends = parts.host.get(cut..);
                    ends.is_some_and(|end| end.eq_ignore_ascii_case(host)) && *below == (cut > 0)
                });
                let wanted = port.or_else(|| port_of(parts.scheme));
                same_scheme && same_host && parts.port() == wanted
            }),
        }
    }
}

impl Origins {
    /// Reads a list, separated by commas.
    ///
    /// # Errors
    /// [`BadOrigin`] for an entry that is none.
    pub fn new(list: &str) -> Result<Origins, BadOrigin> {
        let entry = |text: &str| {
            Pattern::new(text).ok_or_else(|| BadOrigin::Malformed(text.chars().take(64).collect()))
        };
        let entries = list.split(',').map(str::trim).filter(|e| !e.is_empty());
        let listed: Box<[Pattern]> = entries.map(entry).collect::<Result<_, _>>()?;
        if listed.len() > ORIGINS_MAX {
            return Err(BadOrigin::TooMany(listed.len()));
        }
        Ok(Origins {
            listed,
            loopback: false,
            text: list.into(),
        })
    }

    /// Whether a page of this origin may open a connection to `host`, which is the `Host` of its
    /// request.
    pub fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        if !self.listed.is_empty() {
            return self.listed.iter().any(|pattern| pattern.matches(origin));
        }
        let Some(parts) = Parts::new(origin) else {
            return false;
        };
        let same = host.and_then(split_port).is_some_and(|(host, port)| {
            let port = port.or_else(|| port_of(parts.scheme));
            host.eq_ignore_ascii_case(parts.host) && port == parts.port()
        });
        same || (self.loopback && is_loopback(parts.host))
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origins({:?}, loopback {})", self.text, self.loopback)
    }
}

/// Whether a name means this machine, wherever it is asked for (RFC 6761 §6.3).
fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let is_v4 = || {
        let mut parts = host.split('.');
        let is_number = |part: &str| part.parse::<u8>().is_ok();
        parts.next() == Some("127") && parts.clone().count() == 3 && parts.all(is_number)
    };
    host == "localhost" || host.ends_with(".localhost") || host == "[::1]" || is_v4()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_means_what_the_table_says() {
        let table: &[(&str, &[&str], &[&str])] = &[
            (
                "https://app.example.com",
                &[
                    "https://app.example.com",
                    "HTTPS://App.Example.COM",
                    "https://app.example.com:443",
                ],
                &[
                    "http://app.example.com",
                    "https://app.example.com:8443",
                    "https://app.example.com.evil.org",
                    "https://evilapp.example.com",
                    "https://app.example.com@evil.org",
                    "https://app.example.com/",
                    "null",
                    "",
                    "app.example.com",
                ],
            ),
            (
                "https://*.example.com:8443, null",
                &[
                    "https://a.example.com:8443",
                    "https://a.b.example.com:8443",
                    "null",
                ],
                &[
                    "https://example.com:8443",
                    "https://.example.com",
                    "https://aexample.com:8443",
                    "https://a.example.com",
                    "http://a.example.com:8443",
                ],
            ),
            (
                "*.example.com",
                &["https://a.example.com", "http://a.example.com:80"],
                &["https://a.example.com:8443", "https://example.com"],
            ),
            ("*", &["https://anything", "null", "x"], &[]),
            (
                "http://[::1]:3000,http://127.0.0.1:3000",
                &["http://[::1]:3000", "http://127.0.0.1:3000"],
                &["http://[::1]", "http://[::1]:30000"],
            ),
            (
                "capacitor://localhost",
                &["capacitor://localhost"],
                &["http://localhost", "capacitor://localhost:1"],
            ),
        ];
        for (list, yes, no) in table {
            let origins = Origins::new(list).unwrap();
            for origin in *yes {
                assert!(origins.allow(origin, None), "{list} allows {origin}");
            }
            for origin in *no {
                assert!(
                    !origins.allow(origin, Some("app.example.com")),
                    "{list} refuses {origin}"
                );
            }
        }
    }

    #[test]
    fn without_a_list_the_own_origin_is_allowed_and_on_loopback_any_of_this_machine() {
        let mut origins = Origins::new("").unwrap();
        let table = [
            ("http://chat.example.com", "chat.example.com", true, true),
            (
                "https://chat.example.com",
                "Chat.Example.com:443",
                true,
                true,
            ),
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true, true),
            ("http://[::1]:8080", "[::1]:8080", true, true),
            (
                "http://chat.example.com:81",
                "chat.example.com",
                false,
                false,
            ),
            ("https://evil.org", "chat.example.com", false, false),
            ("null", "chat.example.com", false, false),
            ("http://localhost:3000", "127.0.0.1:8080", false, true),
            ("http://app.localhost", "127.0.0.1:8080", false, true),
            ("http://127.9.0.1:1", "127.0.0.1:8080", false, true),
            ("http://[::1]:3000", "127.0.0.1:8080", false, true),
            ("http://127.0.0.1.evil.org", "127.0.0.1:8080", false, false),
            ("http://localhost.evil.org", "127.0.0.1:8080", false, false),
        ];
        for (origin, host, elsewhere, here) in table {
            origins.loopback = false;
            assert_eq!(origins.allow(origin, Some(host)), elsewhere, "{origin}");
            origins.loopback = true;
            assert_eq!(origins.allow(origin, Some(host)), here, "{origin}");
        }
        origins.loopback = false;
        assert!(!origins.allow("http://a", None));
    }

    #[test]
    fn what_is_no_entry_is_said() {
        let bad = [
            "example.com",
            "https://",
            "https://*",
            "https://a*.example.com",
            "https://*.*.com",
            "https://a/",
            "https://a:x",
            "https://a:70000",
            "https://u@a",
            "https://[::1",
            "*.",
            "*example.com",
            "://a",
        ];
        for text in bad {
            assert_eq!(
                Origins::new(text),
                Err(BadOrigin::Malformed(text.into())),
                "{text}"
            );
        }
        let many = vec!["null"; 257].join(",");
        assert_eq!(Origins::new(&many), Err(BadOrigin::TooMany(257)));
    }
}

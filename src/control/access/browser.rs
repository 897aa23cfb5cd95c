//! Pages of strangers in an operator's browser: what a listener that asks for no key refuses.
//!
//! Whoever may open a connection to the listener may use it, and a browser on that machine opens
//! connections for any page. Two ways lead there, and one rule stands in each:
//!
//! | way | what the browser says | rule |
//! |---|---|---|
//! | a page sends a request across origins | `Origin`, `Sec-Fetch-Site` | they name this listener |
//! | a page's own name is made to mean this address (DNS rebinding) | `Host` is that name | it is an address, `localhost`, or a name of `--admin-allow-host` |
//!
//! Programs send neither `Origin` nor names of strangers, so nothing changes for them. With keys
//! none of it is needed: no page can make a browser send a key.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};

/// Which rule a request breaks.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Foreign {
    /// None or several `Host`, or one that is no text.
    NoHost,
    /// A name that is nobody's here.
    Host,
    /// A page of another origin is behind it.
    Page,
}

/// Holds a request against the rules. `names` are those of `--admin-allow-host`; where the listener
/// speaks TLS, `Host` is held by the certificate. A request that changes something is nothing that a
/// link may lead to.
pub(super) fn judge(
    headers: &HeaderMap,
    names: &[Box<str>],
    (is_tls, only_reads): (bool, bool),
) -> Result<(), Foreign> {
    let host = only(headers, header::HOST).ok_or(Foreign::NoHost)?;
    let is_listed = |authority: &str| {
        let name = without_port(authority);
        names.iter().any(|listed| listed.eq_ignore_ascii_case(name))
    };
    if !is_tls && !is_local(without_port(host)) && !is_listed(host) {
        return Err(Foreign::Host);
    }
    if headers.contains_key(header::ORIGIN) {
        let origin = only(headers, header::ORIGIN).ok_or(Foreign::Page)?;
        let scheme = if is_tls { "https://" } else { "http://" };
        let is_own = |authority: &str| authority.eq_ignore_ascii_case(host);
        // Before a name that is listed a proxy may speak TLS.
        let authority = origin
            .split_once("://")
            .map_or("", |(_, authority)| authority);
        if !(origin.strip_prefix(scheme).is_some_and(is_own) || is_listed(authority)) {
            return Err(Foreign::Page);
        }
        return Ok(());
    }
    match headers.get("sec-fetch-site").map(|site| site.as_bytes()) {
        // A link on a page of strangers may lead to a page here, and to nothing else.
        Some(b"cross-site" | b"same-site") if !(only_reads && is_navigation(headers)) => {
            Err(Foreign::Page)
        }
        _ => Ok(()),
    }
}

fn is_navigation(headers: &HeaderMap) -> bool {
    let is = |name, value: &str| headers.get(name).is_some_and(|found| found == value);
    is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document")
}

/// The value of a field that must be there once.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// A name or an address without its port; IPv6 without brackets.
fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or("", |(address, _)| address);
    }
    authority
        .split_once(':')
        .map_or(authority, |(name, _)| name)
}

/// A name that no stranger can have: an address, or one that browsers take for this machine.
fn is_local(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn verdict(fields: &[(&str, &str)], is_tls: bool) -> Result<(), Foreign> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        judge(&headers, &["admin.example".into()], (is_tls, true))
    }

    #[test]
    fn a_link_of_strangers_leads_to_what_can_be_seen_and_changes_nothing() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "127.0.0.1:9090"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(judge(&headers, &[], (false, true)), Ok(()));
        assert_eq!(judge(&headers, &[], (false, false)), Err(Foreign::Page));
    }

    #[test]
    fn programs_and_own_pages_pass() {
        let good: [&[(&str, &str)]; 9] = [
            &[("host", "127.0.0.1:9090")],
            &[("host", "[::1]:9090")],
            &[("host", "10.1.2.3")],
            &[("host", "localhost:9090")],
            &[("host", "Admin.Example")],
            &[
                ("host", "localhost:9090"),
                ("origin", "http://localhost:9090"),
                ("sec-fetch-site", "same-origin"),
            ],
            &[
                ("host", "127.0.0.1:9090"),
                ("origin", "https://admin.example"),
            ],
            &[("host", "127.0.0.1:9090"), ("sec-fetch-site", "none")],
            &[
                ("host", "127.0.0.1:9090"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
        ];
        for fields in good {
            assert_eq!(verdict(fields, false), Ok(()), "{fields:?}");
        }
        assert_eq!(verdict(&[("host", "ops.example")], true), Ok(()));
    }

    #[test]
    fn names_and_pages_of_strangers_do_not() {
        let host = ("host", "127.0.0.1:9090");
        let bad: [(&[(&str, &str)], Foreign); 11] = [
            (&[], Foreign::NoHost),
            (&[host, host], Foreign::NoHost),
            (&[("host", "evil.example:9090")], Foreign::Host),
            (&[("host", "localhost.evil.example")], Foreign::Host),
            (&[("host", "127.0.0.1.evil.example")], Foreign::Host),
            (&[("host", "")], Foreign::Host),
            (&[host, ("origin", "https://evil.example")], Foreign::Page),
            (&[host, ("origin", "null")], Foreign::Page),
            (&[host, ("origin", "http://127.0.0.1:3000")], Foreign::Page),
            (&[host, ("sec-fetch-site", "cross-site")], Foreign::Page),
            (
                &[
                    host,
                    ("sec-fetch-site", "same-site"),
                    ("sec-fetch-mode", "no-cors"),
                ],
                Foreign::Page,
            ),
        ];
        for (fields, foreign) in bad {
            assert_eq!(verdict(fields, false), Err(foreign), "{fields:?}");
        }
    }
}

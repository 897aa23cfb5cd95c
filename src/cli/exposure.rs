//! Whom the server lets in and what it holds them to: lines for the start, and warnings about what is
//! hardly meant on an address that others can reach.

use super::Options;
use super::options::{AuthMethod, RoomNames};

/// Who enters, as the summary of a start says it.
pub(super) fn users(options: &Options) -> String {
    let authentication = &options.authentication;
    match authentication.auth {
        AuthMethod::None => "anyone, under any name (--auth none)".to_owned(),
        AuthMethod::Jwt => {
            let files = authentication.jwt_key_file.len();
            let secret = usize::from(authentication.jwt_secret.is_some());
            let mut text = format!(
                "by token, held against {}",
                counted(files + secret, "key file")
            );
            for (name, wanted) in [
                ("iss", &authentication.jwt_issuer),
                ("aud", &authentication.jwt_audience),
            ] {
                if !wanted.is_empty() {
                    text += &format!(", {name} {}", wanted.join(" or "));
                }
            }
            text
        }
        AuthMethod::Webhook => {
            let url = authentication
                .auth_webhook_url
                .as_deref()
                .unwrap_or_default();
            format!("whom {} lets in", without_path(url))
        }
    }
}

/// Which rooms there are.
pub(super) fn rooms(options: &Options) -> String {
    let rules = counted(options.rooms.tables.len(), "rule");
    match options.rooms.rooms {
        RoomNames::Open => format!("of any name, {rules}"),
        RoomNames::Explicit => format!("those of {rules} alone"),
    }
}

/// The rates that are set, by their flags; those that are always on are not named.
pub(super) fn limits(options: &Options) -> String {
    let set = rates(options).into_iter().filter(|(_, is_set)| *is_set);
    let names: Vec<&str> = set.map(|(name, _)| name).collect();
    match names.as_slice() {
        [] => "no rate of messages or connections".to_owned(),
        names => names.join(", "),
    }
}

/// The limits that strangers should be held to, and whether they are set.
fn rates(options: &Options) -> [(&'static str, bool); 6] {
    let limits = &options.limits;
    [
        (
            "limit-connection-messages",
            limits.limit_connection_messages.0.is_some(),
        ),
        (
            "limit-user-messages",
            limits.limit_user_messages.0.is_some(),
        ),
        ("limit-user-rooms", limits.limit_user_rooms.0.is_some()),
        (
            "limit-connection-bytes",
            limits.limit_connection_bytes.0.is_some(),
        ),
        (
            "max-connections-per-address",
            limits.max_connections_per_address > 0,
        ),
        (
            "limit-address-connects",
            limits.limit_address_connects.0.is_some(),
        ),
    ]
}

/// What is hardly meant.
pub(super) fn warnings(options: &Options) -> Vec<String> {
    let authentication = &options.authentication;
    let is_open = !options.listeners.listen.ip().to_canonical().is_loopback();
    let is_admin_open = !options
        .listeners
        .admin_listen
        .ip()
        .to_canonical()
        .is_loopback();
    let url = authentication
        .auth_webhook_url
        .as_deref()
        .unwrap_or_default();
    let is_proxied = !options.limits.trusted_proxies.0.is_empty();
    let is_asked = authentication.auth == AuthMethod::Webhook;
    let told = options.hooks.webhook.as_deref().unwrap_or_default();
    let all = [
        (
            is_open && !options.tls.is_on() && !is_proxied,
            "tokens and messages cross the network in the clear; add --tls-cert and --tls-key, or name \
             the proxy that speaks TLS in --trusted-proxies",
        ),
        (
            is_open && !rates(options).iter().any(|(_, is_set)| *is_set),
            "strangers are held to no rate; set --limit-connection-messages, --limit-user-messages, \
             --limit-user-rooms and --max-connections-per-address (docs/limits.md)",
        ),
        (
            is_admin_open && options.admin.api_key_file.is_some() && !options.tls.is_on_for_admin(),
            "API keys cross the network in the clear; add --admin-tls, or --admin-tls-cert and \
             --admin-tls-key, or let nobody but a proxy that speaks TLS reach --admin-listen",
        ),
        (
            options.listeners.echo && (is_open || authentication.auth != AuthMethod::None),
            "--echo is open to everyone, whatever --auth and --allow-origin say: it is for tests",
        ),
        (
            authentication.allow_token_in_url,
            "--allow-token-in-url: proxies log URLs, and the tokens in them",
        ),
        (
            authentication.auth == AuthMethod::Jwt && !authentication.jwt_require_exp,
            "--jwt-require-exp=false: a token without exp is good for ever, and nothing revokes it",
        ),
        (
            is_asked && url.starts_with("http://") && !is_local(url),
            "the webhook is asked over http://: tokens and header fields cross the network in the clear",
        ),
        (
            is_asked && authentication.auth_webhook_secret_file.is_none(),
            "the webhook cannot tell who asks it: add --auth-webhook-secret-file",
        ),
        (
            told.starts_with("http://") && !is_local(told),
            "--webhook is told over http://: names of rooms and users cross the network in the clear",
        ),
        (
            !told.is_empty() && options.hooks.webhook_secret_file.is_none(),
            "--webhook cannot tell who tells it: add --webhook-secret-file",
        ),
    ];
    let true_ones = all.into_iter().filter(|(is_so, _)| *is_so);
    true_ones.map(|(_, warning)| warning.to_owned()).collect()
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Scheme and host of a URL: what stands behind may be a secret.
fn without_path(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let rest = url.get(host..).unwrap_or_default();
    let end = rest.find(['/', '?']).map_or(url.len(), |at| host + at);
    url.get(..end).unwrap_or(url)
}

fn is_local(url: &str) -> bool {
    let host = without_path(url).trim_start_matches("http://");
    ["127.", "localhost", "[::1]"]
        .iter()
        .any(|local| host.starts_with(local))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rates::{networks, rate};

    fn open(change: impl FnOnce(&mut Options)) -> Options {
        let mut options = Options::default();
        options.listeners.listen = "0.0.0.0:1".parse().unwrap();
        options.authentication.auth = AuthMethod::Jwt;
        options.tls.tls_self_signed = true;
        options.limits.limit_user_messages = rate("1/s").unwrap();
        change(&mut options);
        options
    }

    #[test]
    fn each_exposure_is_warned_of_alone() {
        type Case = (fn(&mut Options), &'static str);
        let webhook = |options: &mut Options, url: &str| {
            options.authentication.auth = AuthMethod::Webhook;
            options.authentication.auth_webhook_url = Some(url.to_owned());
        };
        let cases: [Case; 4] = [
            (
                |o| o.tls.tls_self_signed = false,
                "in the clear; add --tls-cert",
            ),
            (|o| o.limits = Options::default().limits, "no rate"),
            (
                |o| o.authentication.allow_token_in_url = true,
                "--allow-token-in-url",
            ),
            (|o| o.authentication.jwt_require_exp = false, "for ever"),
        ];
        for (change, part) in cases {
            let found = warnings(&open(change));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(part), "{found:?}");
        }
        let keys = warnings(&open(|o| {
            o.listeners.admin_listen = "0.0.0.0:2".parse().unwrap();
            o.admin.api_key_file = Some("keys".into());
        }));
        assert!(
            keys.len() == 1 && keys[0].starts_with("API keys cross"),
            "{keys:?}"
        );
        let plain = warnings(&open(|o| webhook(o, "http://backend/x")));
        assert_eq!(plain.len(), 2, "{plain:?}");
        let local = warnings(&open(|o| webhook(o, "http://127.0.0.1:1/x")));
        assert_eq!(local.len(), 1, "{local:?}");
    }

    #[test]
    fn what_is_guarded_or_local_is_not_warned_of() {
        assert_eq!(warnings(&open(|_| {})), [""; 0]);
        assert_eq!(warnings(&Options::default()), [""; 0]);
        let proxied = open(|o| {
            o.tls.tls_self_signed = false;
            o.limits.trusted_proxies = networks("10.0.0.0/8").unwrap();
        });
        assert_eq!(warnings(&proxied), [""; 0]);
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_a_secret() {
        for (url, shown) in [
            ("https://a.example/hook?key=1", "https://a.example"),
            ("http://b:1?x", "http://b:1"),
            ("https://c", "https://c"),
        ] {
            assert_eq!(without_path(url), shown);
        }
    }
}

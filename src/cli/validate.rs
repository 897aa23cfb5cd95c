//! Flags held against each other. What one flag may be by itself is said where it is defined.

use std::net::SocketAddr;

use super::Options;
use super::options::{AuthMethod, DurabilityMode, ProxyProtocol};
use super::sources::JWT_SECRET_VARIABLE;
use super::units::{ByteSize, TimeSpan};

/// Values that are good alone, but not together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The flags concerned, without dashes.
    pub flags: Vec<&'static str>,
    /// What is wrong with their values, and what to do.
    pub problem: String,
}

impl Conflict {
    fn new(flags: &[&'static str], problem: String) -> Conflict {
        Conflict {
            flags: flags.to_vec(),
            problem,
        }
    }
}

/// Everything about `options` that does not go together; empty for options that do.
pub fn conflicts(options: &Options) -> Vec<Conflict> {
    [
        same_address(options),
        anonymous_on_open_address(options),
        tokens_without_key(options),
        tokens_not_asked_for(options),
        webhook_and_its_url(options),
        events_for_nobody(options),
        batch_above_queue(options),
        admin_on_open_address(options),
        metrics_open_already(options),
        unpaired_certificates(options),
        two_kinds_of_certificates(options),
        half_an_admin_certificate(options),
        admin_shows_nothing(options),
        client_ca_without_tls(options),
        lag_below_a_message(options),
        history_below_a_message(options),
        bus_below_a_message(options),
        coalesce_above_lag_age(options),
        proxy_headers_from_nobody(options),
        joins_below_rooms(options),
        bytes_below_a_message(options),
        body_below_a_message(options),
        durability_of_nothing(options),
        flushes_at_once_already(options),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn durability_of_nothing(options: &Options) -> Option<Conflict> {
    let (store, usual) = (&options.store, Options::default().store);
    if store.data_dir.is_some() {
        return None;
    }
    let flag = if store.durability != usual.durability {
        "durability"
    } else if store.flush_interval != usual.flush_interval {
        "flush-interval"
    } else {
        return None;
    };
    let problem = format!(
        "--{flag} says how history is kept on disk, and no directory for it is named; add \
         --data-dir, or take --{flag} out"
    );
    Some(Conflict::new(&[flag, "data-dir"], problem))
}

fn flushes_at_once_already(options: &Options) -> Option<Conflict> {
    let (store, usual) = (&options.store, Options::default().store);
    let is_moot = store.data_dir.is_some()
        && store.durability == DurabilityMode::Fsync
        && store.flush_interval != usual.flush_interval;
    is_moot.then(|| {
        let problem = format!(
            "--flush-interval {} is for --durability async; with fsync everything is written at \
             once: take it out",
            TimeSpan(store.flush_interval)
        );
        Conflict::new(&["flush-interval", "durability"], problem)
    })
}

fn same_address(options: &Options) -> Option<Conflict> {
    let listeners = &options.listeners;
    // Port 0 is a port of its own for each.
    let collide = listeners.listen == listeners.admin_listen && listeners.listen.port() != 0;
    collide.then(|| {
        let problem = format!(
            "--listen and --admin-listen are both {}; give the admin listener a port of its own",
            listeners.listen
        );
        Conflict::new(&["listen", "admin-listen"], problem)
    })
}

fn anonymous_on_open_address(options: &Options) -> Option<Conflict> {
    let address = options.listeners.listen;
    let authentication = &options.authentication;
    let open = authentication.auth == AuthMethod::None
        && !is_loopback(address)
        && !authentication.insecure_allow_anonymous;
    open.then(|| {
        let problem = format!(
            "--listen {address} can be reached from other machines, and --auth none lets everyone \
             in; listen on 127.0.0.1, or add --insecure-allow-anonymous if that is meant"
        );
        Conflict::new(&["listen", "auth", "insecure-allow-anonymous"], problem)
    })
}

fn tokens_without_key(options: &Options) -> Option<Conflict> {
    let authentication = &options.authentication;
    let without = authentication.auth == AuthMethod::Jwt
        && authentication.jwt_key_file.is_empty()
        && authentication.jwt_secret.is_none();
    without.then(|| {
        let problem = format!(
            "--auth jwt has no key to hold tokens against; name the backend's public key with \
             --jwt-key-file, or give its secret in {JWT_SECRET_VARIABLE}; tidewheel token keygen \
             makes keys"
        );
        Conflict::new(&["auth", "jwt-key-file"], problem)
    })
}

fn tokens_not_asked_for(options: &Options) -> Option<Conflict> {
    let authentication = &options.authentication;
    if authentication.auth == AuthMethod::Jwt {
        return None;
    }
    let given = [
        ("jwt-key-file", !authentication.jwt_key_file.is_empty()),
        ("jwt-issuer", !authentication.jwt_issuer.is_empty()),
        ("jwt-audience", !authentication.jwt_audience.is_empty()),
        ("jwt-require-exp", !authentication.jwt_require_exp),
    ];
    let named = given.iter().find(|(_, is_given)| *is_given);
    let (flag, what) = match named {
        Some((flag, _)) => (Some(*flag), format!("--{flag}")),
        None if authentication.jwt_secret.is_some() => (None, JWT_SECRET_VARIABLE.to_owned()),
        None => return None,
    };
    let problem = format!(
        "{what} is set, and --auth {} looks at no token; add --auth jwt, or take {what} out",
        method_name(authentication.auth)
    );
    let flags: Vec<_> = flag.into_iter().chain(["auth"]).collect();
    Some(Conflict::new(&flags, problem))
}

fn method_name(method: AuthMethod) -> &'static str {
    match method {
        AuthMethod::None => "none",
        AuthMethod::Jwt => "jwt",
        AuthMethod::Webhook => "webhook",
    }
}

fn webhook_and_its_url(options: &Options) -> Option<Conflict> {
    let authentication = &options.authentication;
    let is_asked = authentication.auth == AuthMethod::Webhook;
    let problem = match (is_asked, &authentication.auth_webhook_url) {
        (true, None) => {
            "--auth webhook asks your backend about everyone: say where it is with \
             --auth-webhook-url"
        }
        (false, Some(_)) => {
            "--auth-webhook-url says where to ask, but nobody is asked about: add --auth webhook"
        }
        _ => return None,
    };
    Some(Conflict::new(
        &["auth", "auth-webhook-url"],
        problem.to_owned(),
    ))
}

fn events_for_nobody(options: &Options) -> Option<Conflict> {
    let hooks = &options.hooks;
    let given = [
        ("webhook-secret-file", hooks.webhook_secret_file.is_some()),
        ("webhook-ca-file", hooks.webhook_ca_file.is_some()),
        ("webhook-events", hooks.webhook_events.is_some()),
    ];
    let (flag, _) = given.into_iter().find(|(_, is_given)| *is_given)?;
    hooks.webhook.is_none().then(|| {
        let problem = format!(
            "--{flag} is about events for your backend, and nobody is told any: say where it is with \
             --webhook (--auth-webhook-url is about who may enter)"
        );
        Conflict::new(&[flag, "webhook"], problem)
    })
}

fn batch_above_queue(options: &Options) -> Option<Conflict> {
    let (batch, queue) = (options.hooks.webhook_batch, options.hooks.webhook_queue);
    (batch > queue).then(|| {
        let problem = format!(
            "--webhook-batch {batch} is above --webhook-queue {queue}: a batch would never be full; \
             lower --webhook-batch, or raise --webhook-queue"
        );
        Conflict::new(&["webhook-batch", "webhook-queue"], problem)
    })
}

fn admin_on_open_address(options: &Options) -> Option<Conflict> {
    let address = options.listeners.admin_listen;
    let asks = options.tls.tls_client_ca.is_some() || options.admin.api_key_file.is_some();
    (!is_loopback(address) && !asks).then(|| {
        let problem = format!(
            "--admin-listen {address} can be reached from other machines, and the admin listener \
             asks for no key; listen on 127.0.0.1:{}, give keys by --api-key-file, or demand client \
             certificates by --tls-client-ca",
            address.port()
        );
        Conflict::new(&["admin-listen", "api-key-file", "tls-client-ca"], problem)
    })
}

fn metrics_open_already(options: &Options) -> Option<Conflict> {
    let admin = &options.admin;
    (admin.metrics_open && admin.api_key_file.is_none()).then(|| {
        let problem =
            "--metrics-open is for a listener that asks for keys, and this one asks for none; \
                       add --api-key-file, or take --metrics-open out (a scraper that calls the \
                       listener by a name needs that in --admin-allow-host)"
                .to_owned();
        Conflict::new(&["metrics-open", "api-key-file"], problem)
    })
}

fn unpaired_certificates(options: &Options) -> Option<Conflict> {
    let (certificates, keys) = (options.tls.tls_cert.len(), options.tls.tls_key.len());
    (certificates != keys).then(|| {
        let problem = match (certificates, keys) {
            (1, 0) => "--tls-cert is given without its key; add --tls-key".to_owned(),
            (0, 1) => "--tls-key is given without its certificate; add --tls-cert".to_owned(),
            _ => format!(
                "there are {certificates} of --tls-cert and {keys} of --tls-key; give one key for \
                 each certificate, in the same order"
            ),
        };
        Conflict::new(&["tls-cert", "tls-key"], problem)
    })
}

fn two_kinds_of_certificates(options: &Options) -> Option<Conflict> {
    let tls = &options.tls;
    (tls.tls_self_signed && !tls.tls_cert.is_empty()).then(|| {
        let problem = "--tls-self-signed makes a certificate, and --tls-cert names one; give one \
                       of them"
            .to_owned();
        Conflict::new(&["tls-self-signed", "tls-cert"], problem)
    })
}

fn half_an_admin_certificate(options: &Options) -> Option<Conflict> {
    let tls = &options.tls;
    let problem = match (&tls.admin_tls_cert, &tls.admin_tls_key) {
        (Some(_), None) => "--admin-tls-cert is given without its key; add --admin-tls-key",
        (None, Some(_)) => "--admin-tls-key is given without a certificate; add --admin-tls-cert",
        (Some(_), Some(_)) if tls.admin_tls => {
            "--admin-tls is for the public listener's certificates, and --admin-tls-cert names \
             another; give one of them"
        }
        _ => return None,
    };
    let flags = &["admin-tls-cert", "admin-tls-key", "admin-tls"];
    Some(Conflict::new(flags, problem.to_owned()))
}

fn admin_shows_nothing(options: &Options) -> Option<Conflict> {
    let tls = &options.tls;
    (tls.admin_tls && !tls.is_on()).then(|| {
        let problem =
            "--admin-tls is for the public listener's certificates, and it has none; add \
                       --tls-cert and --tls-key, or give --admin-tls-cert and --admin-tls-key"
                .to_owned();
        Conflict::new(&["admin-tls", "tls-cert"], problem)
    })
}

fn client_ca_without_tls(options: &Options) -> Option<Conflict> {
    let tls = &options.tls;
    (tls.tls_client_ca.is_some() && !tls.is_on_for_admin()).then(|| {
        let problem = "--tls-client-ca is for an admin listener that speaks TLS; add --admin-tls, \
                       or --admin-tls-cert and --admin-tls-key"
            .to_owned();
        Conflict::new(&["tls-client-ca", "admin-tls"], problem)
    })
}

fn lag_below_a_message(options: &Options) -> Option<Conflict> {
    let lag = options.slow_consumers.max_lag_bytes;
    below_a_message(
        options,
        "max-lag-bytes",
        lag,
        "one message would make its reader slow",
    )
}

fn history_below_a_message(options: &Options) -> Option<Conflict> {
    if options.rooms.history == 0 {
        return None;
    }
    let kept = options.rooms.history_bytes;
    below_a_message(
        options,
        "history-bytes",
        kept,
        "such a message would not be kept",
    )
}

fn bus_below_a_message(options: &Options) -> Option<Conflict> {
    let backlog = options.tuning.bus_backlog_bytes;
    below_a_message(
        options,
        "bus-backlog-bytes",
        backlog,
        "every message would pause publishers",
    )
}

/// The complaint that `flag`, which bounds something made of messages, has no room for one.
fn below_a_message(
    options: &Options,
    flag: &'static str,
    bytes: usize,
    consequence: &str,
) -> Option<Conflict> {
    let message = options.messages.max_message_bytes;
    (bytes < message).then(|| {
        let (bytes, message) = (ByteSize(bytes), ByteSize(message));
        let problem = format!(
            "--{flag} {bytes} is below --max-message-bytes {message}: {consequence}; \
             raise --{flag} to {message} or more, or lower --max-message-bytes"
        );
        Conflict::new(&[flag, "max-message-bytes"], problem)
    })
}

fn body_below_a_message(options: &Options) -> Option<Conflict> {
    let body = options.admin.api_body_bytes;
    below_a_message(
        options,
        "api-body-bytes",
        body,
        "such a message could not be published over HTTP",
    )
}

fn coalesce_above_lag_age(options: &Options) -> Option<Conflict> {
    let slow = &options.slow_consumers;
    (slow.coalesce >= slow.max_lag_age).then(|| {
        let problem = format!(
            "--coalesce {} is not below --max-lag-age {}: every reader would count as slow; \
             lower --coalesce",
            TimeSpan(slow.coalesce),
            TimeSpan(slow.max_lag_age)
        );
        Conflict::new(&["coalesce", "max-lag-age"], problem)
    })
}

fn proxy_headers_from_nobody(options: &Options) -> Option<Conflict> {
    let limits = &options.limits;
    let nobody = limits.trusted_proxies.0.is_empty();
    (limits.proxy_protocol == ProxyProtocol::Required && nobody).then(|| {
        let problem = "--proxy-protocol required takes connections from --trusted-proxies alone, \
                       and that names none; name the proxies' addresses or networks"
            .to_owned();
        Conflict::new(&["proxy-protocol", "trusted-proxies"], problem)
    })
}

fn joins_below_rooms(options: &Options) -> Option<Conflict> {
    let limit = options.limits.limit_connection_joins;
    let (rate, rooms) = (limit.0?, options.rooms.max_rooms_per_connection);
    ((rate.burst() as usize) < rooms).then(|| {
        let problem = format!(
            "--limit-connection-joins {limit} lets fewer joins through at once than \
             --max-rooms-per-connection {rooms} allows: whoever is in so many rooms could not come \
             back to them after a reconnect; write a burst of {rooms} or more"
        );
        let flags = ["limit-connection-joins", "max-rooms-per-connection"];
        Conflict::new(&flags, problem)
    })
}

fn bytes_below_a_message(options: &Options) -> Option<Conflict> {
    let rate = options.limits.limit_connection_bytes.0?;
    let burst = ByteSize(rate.burst() as usize);
    let message = ByteSize(options.messages.max_message_bytes);
    (burst < message).then(|| {
        let problem = format!(
            "--limit-connection-bytes {rate} lets {burst} through at once, and --max-message-bytes \
             is {message}: every such message would hold its connection up; write a burst of \
             {message} or more"
        );
        Conflict::new(&["limit-connection-bytes", "max-message-bytes"], problem)
    })
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::policy::Secret;
    use crate::cli::rates::rate_of_bytes;
    use crate::cli::units::{KIB, MIB};

    fn changed(change: impl FnOnce(&mut Options)) -> Vec<Conflict> {
        let mut options = Options::default();
        change(&mut options);
        conflicts(&options)
    }

    #[test]
    fn the_defaults_go_together() {
        assert_eq!(conflicts(&Options::default()), []);
    }

    #[test]
    fn each_rule_is_broken_by_its_own_flags_alone() {
        type Case = (fn(&mut Options), &'static str);
        let cases: [Case; 28] = [
            (|o| o.listeners.admin_listen = o.listeners.listen, "listen"),
            (
                |o| o.listeners.listen = "0.0.0.0:1".parse().unwrap(),
                "listen",
            ),
            (|o| o.authentication.auth = AuthMethod::Webhook, "auth"),
            (
                |o| o.authentication.auth_webhook_url = Some("http://a/".into()),
                "auth",
            ),
            (
                |o| o.hooks.webhook_secret_file = Some("a".into()),
                "webhook-secret-file",
            ),
            (|o| o.hooks.webhook_queue = 100, "webhook-batch"),
            (
                |o| o.listeners.admin_listen = "[::]:1".parse().unwrap(),
                "admin-listen",
            ),
            (|o| o.admin.metrics_open = true, "metrics-open"),
            (|o| o.authentication.auth = AuthMethod::Jwt, "auth"),
            (
                |o| o.authentication.jwt_secret = Some(Secret::new("x")),
                "auth",
            ),
            (
                |o| o.authentication.jwt_issuer = vec!["x".into()],
                "jwt-issuer",
            ),
            (
                |o| o.authentication.jwt_require_exp = false,
                "jwt-require-exp",
            ),
            (|o| o.slow_consumers.max_lag_bytes = KIB, "max-lag-bytes"),
            (|o| o.rooms.history_bytes = KIB, "history-bytes"),
            (|o| o.admin.api_body_bytes = KIB, "api-body-bytes"),
            (|o| o.tuning.bus_backlog_bytes = KIB, "bus-backlog-bytes"),
            (
                |o| o.slow_consumers.coalesce = o.slow_consumers.max_lag_age,
                "coalesce",
            ),
            (
                |o| o.limits.proxy_protocol = ProxyProtocol::Required,
                "proxy-protocol",
            ),
            (
                |o| o.rooms.max_rooms_per_connection = 20_000,
                "limit-connection-joins",
            ),
            (
                |o| o.limits.limit_connection_bytes = rate_of_bytes("1KiB/s").unwrap(),
                "limit-connection-bytes",
            ),
            (|o| o.tls.tls_cert.push("a.pem".into()), "tls-cert"),
            (|o| o.store.durability = DurabilityMode::Fsync, "durability"),
            (
                |o| o.store.flush_interval = std::time::Duration::from_secs(1),
                "flush-interval",
            ),
            (
                |o| {
                    o.store.data_dir = Some("data".into());
                    o.store.durability = DurabilityMode::Fsync;
                    o.store.flush_interval = std::time::Duration::from_secs(1);
                },
                "flush-interval",
            ),
            (
                |o| {
                    o.tls.tls_self_signed = true;
                    o.tls.tls_cert.push("a.pem".into());
                    o.tls.tls_key.push("a.key".into());
                },
                "tls-self-signed",
            ),
            (
                |o| o.tls.admin_tls_cert = Some("a.pem".into()),
                "admin-tls-cert",
            ),
            (|o| o.tls.admin_tls = true, "admin-tls"),
            (
                |o| o.tls.tls_client_ca = Some("ca.pem".into()),
                "tls-client-ca",
            ),
        ];
        for (change, flag) in cases {
            let found = changed(change);
            assert_eq!(found.len(), 1, "{flag}: {found:?}");
            assert_eq!(found[0].flags[0], flag);
        }
    }

    #[test]
    fn every_flag_named_in_a_conflict_exists() {
        let found = changed(|options| {
            options.messages.max_message_bytes = 16 * MIB;
            options.listeners.listen = "0.0.0.0:80".parse().unwrap();
            options.listeners.admin_listen = options.listeners.listen;
            options.slow_consumers.coalesce = options.slow_consumers.max_lag_age;
            options.limits.proxy_protocol = ProxyProtocol::Required;
            options.rooms.max_rooms_per_connection = 20_000;
            options.limits.limit_connection_bytes = rate_of_bytes("1KiB/s").unwrap();
        });
        assert_eq!(found.len(), 11);
        let reference = crate::cli::reference::markdown();
        for flag in found.iter().flat_map(|conflict| &conflict.flags) {
            assert!(
                reference.contains(&format!("`--{flag}`")),
                "--{flag} is no flag"
            );
        }
    }

    #[test]
    fn what_is_allowed_on_purpose_is_allowed() {
        let open = |options: &mut Options| {
            options.listeners.listen = "0.0.0.0:80".parse().unwrap();
            options.authentication.insecure_allow_anonymous = true;
        };
        assert_eq!(changed(open), []);
        let by_token = |options: &mut Options| {
            options.listeners.listen = "0.0.0.0:80".parse().unwrap();
            options.authentication.auth = AuthMethod::Jwt;
            options.authentication.jwt_secret = Some(Secret::new("x"));
        };
        assert_eq!(changed(by_token), []);
        let certified = |options: &mut Options| {
            options.listeners.admin_listen = "0.0.0.0:1".parse().unwrap();
            options.tls.tls_self_signed = true;
            options.tls.admin_tls = true;
            options.tls.tls_client_ca = Some("ca.pem".into());
        };
        assert_eq!(changed(certified), []);
        let by_key = |options: &mut Options| {
            options.listeners.admin_listen = "0.0.0.0:1".parse().unwrap();
            options.admin.api_key_file = Some("keys".into());
        };
        assert_eq!(changed(by_key), []);
        let port_zero = |options: &mut Options| {
            options.listeners.listen = "127.0.0.1:0".parse().unwrap();
            options.listeners.admin_listen = options.listeners.listen;
        };
        assert_eq!(changed(port_zero), []);
        let mapped =
            |o: &mut Options| o.listeners.listen = "[::ffff:127.0.0.1]:80".parse().unwrap();
        assert_eq!(changed(mapped), []);
        let no_history = |options: &mut Options| {
            options.rooms.history = 0;
            options.rooms.history_bytes = 0;
        };
        assert_eq!(changed(no_history), []);
    }
}

//! One question to the backend: a POST over a connection that is kept, and an answer that is read up
//! to a bound.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use axum::body::Bytes;
use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::control::webhook::body::{read_answer, write_question};
use crate::control::webhook::counters::Outcome;
use crate::control::webhook::{WebhookError, WebhookSettings};
use crate::gate::{Question, Verdict};

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long a connection is kept that nothing is asked over.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// The shortest secret.
const SECRET_BYTES_MIN: usize = 16;

/// The header field with the signature of a question.
const SIGNATURE: &str = "tidewheel-signature";

/// What came of a question.
pub(super) struct Answer {
    /// What the connection is told.
    pub verdict: Verdict,
    /// How it is counted.
    pub outcome: Outcome,
    /// How long the answer was.
    pub body_bytes: usize,
    /// The backend failed as a whole, and not about this question.
    is_fault: bool,
}

impl Answer {
    /// There was none.
    pub(super) fn broken() -> Answer {
        Answer::none(Outcome::Unreachable, true)
    }

    fn none(outcome: Outcome, is_fault: bool) -> Answer {
        Answer {
            verdict: Verdict::Unavailable,
            outcome,
            body_bytes: 0,
            is_fault,
        }
    }

    /// Whether the backend is in trouble. A status or a body that only this question may have brought
    /// about does not say so: nobody is to shut out everyone else by asking something odd.
    pub(super) fn is_backends_fault(&self) -> bool {
        self.is_fault
    }
}

/// The backend.
pub(super) struct Backend {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    timeout: Duration,
    secret: Option<hmac::Key>,
    /// The last question failed, and it was said why.
    is_failing: AtomicBool,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({:?})", self.uri.host())
    }
}

impl Backend {
    pub(super) fn new(settings: &WebhookSettings) -> Result<Backend, WebhookError> {
        let bad_url = || WebhookError::BadUrl(settings.url.clone());
        let uri: Uri = settings.url.parse().map_err(|_| bad_url())?;
        let tls = tls(settings, uri.scheme_str() == Some("https"))?;
        let mut tcp = HttpConnector::new();
        // The scheme is looked at above.
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(settings.timeout));
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(settings.in_flight_max)
            .build(connector);
        Ok(Backend {
            client,
            uri,
            timeout: settings.timeout,
            secret: secret(settings)?,
            is_failing: AtomicBool::new(false),
        })
    }

    /// Asks about a connection.
    pub(super) async fn ask(&self, question: &Question) -> Answer {
        let answer = match tokio::time::timeout(self.timeout, self.exchange(question)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.complain(&"no answer within --auth-webhook-timeout");
                Answer::none(Outcome::TimedOut, true)
            }
        };
        if !answer.is_fault {
            self.is_failing.store(false, Ordering::Relaxed);
        }
        answer
    }

    /// Says why a question failed: once, until one does not.
    fn complain(&self, reason: &dyn fmt::Display) {
        // The rest of the URL may have a key in it.
        let host = self.uri.host().unwrap_or_default();
        if self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(host, %reason, "the authentication webhook fails");
        } else {
            tracing::warn!(host, %reason, "the authentication webhook fails: nobody new is let in");
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the control plane reads clocks, and the backend compares its own"
    )]
    async fn exchange(&self, question: &Question) -> Answer {
        let body = write_question(question);
        let mut request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("tidewheel/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(secret) = &self.secret {
            let unix_s = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            request = request.header(SIGNATURE, signature(secret, unix_s.as_secs(), &body));
        }
        let Ok(request) = request.body(Full::new(Bytes::from(body))) else {
            return Answer::broken();
        };
        let answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => {
                self.complain(&chain(&error));
                return Answer::broken();
            }
        };
        let status = answer.status();
        let body = match Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
        {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                tracing::warn!("the authentication webhook's answer is longer than 64 KiB");
                return Answer::none(Outcome::TooLarge, false);
            }
            Err(error) => {
                self.complain(&error);
                return Answer::broken();
            }
        };
        let answer = judge(status, &body);
        if answer.is_fault {
            self.complain(&status);
        }
        answer
    }
}

/// An error with what brought it about, down to the system's own word.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What an answer says.
fn judge(status: StatusCode, body: &[u8]) -> Answer {
    let (verdict, outcome) = match status {
        StatusCode::OK => match read_answer(body) {
            Ok(grant) => (Verdict::Granted(Arc::new(grant)), Outcome::Granted),
            Err(error) => {
                tracing::warn!(%error, "the authentication webhook's answer cannot be used");
                return Answer::none(Outcome::Malformed, false);
            }
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (Verdict::Denied, Outcome::Denied),
        status => {
            tracing::debug!(%status, "the authentication webhook answered something else");
            let is_fault = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            return Answer::none(Outcome::BadStatus, is_fault);
        }
    };
    Answer {
        verdict,
        outcome,
        body_bytes: body.len(),
        is_fault: false,
    }
}

/// `t=SECONDS,v1=HEX`: the HMAC-SHA256 of the seconds, a dot and the body.
fn signature(secret: &hmac::Key, unix_s: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(secret);
    context.update(format!("{unix_s}.").as_bytes());
    context.update(body);
    let tag = context.sign();
    let hex = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("t={unix_s},v1={}", hex.collect::<String>())
}

fn secret(settings: &WebhookSettings) -> Result<Option<hmac::Key>, WebhookError> {
    let Some(path) = &settings.secret_file else {
        return Ok(None);
    };
    let bytes = std::fs::read(path).map_err(|error| WebhookError::Unreadable {
        flag: "auth-webhook-secret-file",
        path: path.clone(),
        error,
    })?;
    // Editors end a file with a line break, which is nobody's secret.
    let secret = bytes.trim_ascii();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(WebhookError::ShortSecret(secret.len()));
    }
    Ok(Some(hmac::Key::new(hmac::HMAC_SHA256, secret)))
}

/// TLS with the system's certificates, or those of a file. None are looked for where nothing is
/// encrypted.
fn tls(settings: &WebhookSettings, is_https: bool) -> Result<ClientConfig, WebhookError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match &settings.ca_file {
        Some(path) => config.with_root_certificates(roots(path)?),
        None if is_https => config
            .with_native_roots()
            .map_err(|_| WebhookError::NoRoots(settings.url.clone()))?,
        None => config.with_root_certificates(RootCertStore::empty()),
    };
    Ok(config.with_no_client_auth())
}

fn roots(path: &std::path::Path) -> Result<RootCertStore, WebhookError> {
    let unreadable = |error: String| WebhookError::Unreadable {
        flag: "auth-webhook-ca-file",
        path: path.to_owned(),
        error: std::io::Error::other(error),
    };
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|e| unreadable(e.to_string()))?;
        roots.add(certificate)?;
    }
    if roots.is_empty() {
        return Err(unreadable("it has no certificate in PEM".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_signed_with_its_time() {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        // printf '1800000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        assert_eq!(signature(&secret, 1_800_000_000, b"{}"), EXPECTED);
    }

    const EXPECTED: &str =
        "t=1800000000,v1=1313ae9c874eb1a0868ad0b65f841c4243c23fdcfad69a3ada227726fad9960e";

    #[test]
    fn statuses_mean_what_the_contract_says() {
        let yes = br#"{"user_id":"ada"}"#;
        let table: [(u16, &[u8], Outcome, bool); 9] = [
            (200, yes, Outcome::Granted, false),
            (200, b"<html>", Outcome::Malformed, false),
            (201, yes, Outcome::BadStatus, false),
            (302, yes, Outcome::BadStatus, false),
            (401, yes, Outcome::Denied, false),
            (403, b"", Outcome::Denied, false),
            (404, yes, Outcome::BadStatus, false),
            (429, yes, Outcome::BadStatus, true),
            (500, yes, Outcome::BadStatus, true),
        ];
        for (status, body, outcome, is_fault) in table {
            let answer = judge(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(
                (answer.outcome, answer.is_fault),
                (outcome, is_fault),
                "{status}"
            );
            let is_granted = matches!(answer.verdict, Verdict::Granted(_));
            assert_eq!(is_granted, outcome == Outcome::Granted);
        }
    }
}

//! How this node speaks to the operator's backend: a signed POST of JSON over a connection that is
//! kept, and an answer that is read up to a bound.
//!
//! The authentication webhook asks this way, and events are told this way. What an answer means is
//! theirs to say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use axum::body::Bytes;
use axum::http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long the rest of an answer is waited for whose head has said all.
const REST_MAX: Duration = Duration::from_millis(500);

/// How long a connection is kept that nothing is sent over.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// The shortest secret.
const SECRET_BYTES_MIN: usize = 16;

/// The header field with the signature of a body.
const SIGNATURE: &str = "tidewheel-signature";

/// Where the backend is, and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSettings {
    /// Where: `http` or `https`.
    pub url: String,
    /// How long an answer may take, the connection included.
    pub timeout: Duration,
    /// Connections that are kept.
    pub connections_max: usize,
    /// The file with the secret that signs what is sent.
    pub secret_file: Option<PathBuf>,
    /// The file with certificates that an `https` backend's may be signed by; the system's where not
    /// given.
    pub ca_file: Option<PathBuf>,
    /// What errors call all this.
    pub flags: &'static EndpointFlags,
}

/// The flags that say where a backend is, without dashes.
#[derive(PartialEq, Eq, Debug)]
pub struct EndpointFlags {
    /// That of the URL.
    pub url: &'static str,
    /// That of the secret.
    pub secret_file: &'static str,
    /// That of the certificates.
    pub ca_file: &'static str,
}

/// Why nobody can be spoken to. None of it holds a secret.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// It is no address of HTTP.
    #[error("--{flag} {url} is not a URL; write http://HOST/PATH or https://HOST/PATH")]
    BadUrl {
        /// Which flag names it.
        flag: &'static str,
        /// What it names.
        url: String,
    },
    /// A file cannot be read.
    #[error("could not read --{flag} {path}: {error}", path = path.display())]
    Unreadable {
        /// Which flag names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// A secret that could be guessed.
    #[error(
        "the secret in --{flag} has {len} bytes and at least 16 are wanted; \
         make one: openssl rand -hex 32"
    )]
    ShortSecret {
        /// Which flag names its file.
        flag: &'static str,
        /// How long it is, in bytes.
        len: usize,
    },
    /// Nobody could vouch for the backend.
    #[error("no certificate to hold the backend of {url} against; name a file: --{flag}")]
    NoRoots {
        /// Which flag names one.
        flag: &'static str,
        /// The backend.
        url: String,
    },
    /// TLS is not to be had.
    #[error("TLS for the webhook: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum NoAnswer {
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// Nobody could be reached, or the connection broke. With what brought it about.
    #[error("{0}")]
    Unreachable(String),
    /// There is one, and it is longer than is read.
    #[error("an answer of more than 64 KiB")]
    TooLarge,
}

/// What the backend answered.
pub(super) struct Answered {
    pub status: StatusCode,
    pub body: Bytes,
}

/// The backend.
pub(super) struct Endpoint {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    /// Scheme, name and port.
    origin: String,
    timeout: Duration,
    secret: Option<hmac::Key>,
}

impl Endpoint {
    pub(super) fn new(settings: &EndpointSettings) -> Result<Endpoint, EndpointError> {
        let bad_url = || EndpointError::BadUrl {
            flag: settings.flags.url,
            url: settings.url.clone(),
        };
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
            .pool_max_idle_per_host(settings.connections_max)
            .build(connector);
        Ok(Endpoint {
            client,
            origin: origin(&uri),
            uri,
            timeout: settings.timeout,
            secret: secret(settings)?,
        })
    }

    /// The backend's scheme, name and port. The rest of its URL may have a key in it.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Sends JSON, signed with the time of now. The answer is read whole.
    pub(super) async fn post(&self, body: Bytes) -> Result<Answered, NoAnswer> {
        let exchange = async {
            let answer = self.send(body).await?;
            let (head, body) = answer.into_parts();
            match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
                Ok(body) => Ok(Answered {
                    status: head.status,
                    body: body.to_bytes(),
                }),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                    Err(NoAnswer::TooLarge)
                }
                Err(error) => Err(NoAnswer::Unreachable(error.to_string())),
            }
        };
        let answer = tokio::time::timeout(self.timeout, exchange).await;
        answer.unwrap_or(Err(NoAnswer::TimedOut))
    }

    /// The same where the head of the answer says all. What follows it is read only so that the
    /// connection can be used again, for a moment.
    pub(super) async fn tell(&self, body: Bytes) -> Result<(StatusCode, HeaderMap), NoAnswer> {
        let answer = tokio::time::timeout(self.timeout, self.send(body)).await;
        let (head, body) = answer.unwrap_or(Err(NoAnswer::TimedOut))?.into_parts();
        let rest = Limited::new(body, ANSWER_BYTES_MAX).collect();
        let _of_no_matter = tokio::time::timeout(REST_MAX.min(self.timeout), rest).await;
        Ok((head.status, head.headers))
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the control plane reads clocks, and the backend compares its own"
    )]
    async fn send(&self, body: Bytes) -> Result<Response<Incoming>, NoAnswer> {
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
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| NoAnswer::Unreachable(error.to_string()))?;
        let answer = self.client.request(request).await;
        answer.map_err(|error| NoAnswer::Unreachable(chain(&error)))
    }
}

/// The parts of a URL that hold no secret.
fn origin(uri: &Uri) -> String {
    let (scheme, host) = (uri.scheme_str().unwrap_or("http"), uri.host());
    let usual = if scheme == "https" { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(usual);
    format!("{scheme}://{}:{port}", host.unwrap_or_default())
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

/// `t=SECONDS,v1=HEX`: the HMAC-SHA256 of the seconds, a dot and the body.
fn signature(secret: &hmac::Key, unix_s: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(secret);
    context.update(format!("{unix_s}.").as_bytes());
    context.update(body);
    let tag = context.sign();
    let hex = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("t={unix_s},v1={}", hex.collect::<String>())
}

fn secret(settings: &EndpointSettings) -> Result<Option<hmac::Key>, EndpointError> {
    let Some(path) = &settings.secret_file else {
        return Ok(None);
    };
    let flag = settings.flags.secret_file;
    let bytes = std::fs::read(path).map_err(|error| EndpointError::Unreadable {
        flag,
        path: path.clone(),
        error,
    })?;
    // Editors end a file with a line break, which is nobody's secret.
    let secret = bytes.trim_ascii();
    if secret.len() < SECRET_BYTES_MIN {
        let len = secret.len();
        return Err(EndpointError::ShortSecret { flag, len });
    }
    Ok(Some(hmac::Key::new(hmac::HMAC_SHA256, secret)))
}

/// TLS with the system's certificates, or those of a file. None are looked for where nothing is
/// encrypted.
fn tls(settings: &EndpointSettings, is_https: bool) -> Result<ClientConfig, EndpointError> {
    let flag = settings.flags.ca_file;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match &settings.ca_file {
        Some(path) => config.with_root_certificates(roots(flag, path)?),
        None if is_https => config
            .with_native_roots()
            .map_err(|_| EndpointError::NoRoots {
                flag,
                url: settings.url.clone(),
            })?,
        None => config.with_root_certificates(RootCertStore::empty()),
    };
    Ok(config.with_no_client_auth())
}

fn roots(flag: &'static str, path: &Path) -> Result<RootCertStore, EndpointError> {
    let unreadable = |error: String| EndpointError::Unreadable {
        flag,
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
    fn a_body_is_signed_with_its_time() {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        // printf '1800000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        assert_eq!(signature(&secret, 1_800_000_000, b"{}"), EXPECTED);
    }

    #[test]
    fn a_backend_is_named_without_what_may_be_secret() {
        for (url, named) in [
            ("https://a.example/hook/k3y?t=1", "https://a.example:443"),
            ("http://u:p@a.example", "http://a.example:80"),
            ("http://[::1]:8080/x", "http://[::1]:8080"),
        ] {
            assert_eq!(origin(&url.parse().unwrap()), named);
        }
    }

    const EXPECTED: &str =
        "t=1800000000,v1=1313ae9c874eb1a0868ad0b65f841c4243c23fdcfad69a3ada227726fad9960e";
}

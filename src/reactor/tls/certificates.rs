//! From files to what a TLS listener is told.
//!
//! A [`TlsLoader`] is made at the start and kept: it loads the files again whenever they have
//! changed, and what must outlive a certificate stays with it, the keys of session tickets and the
//! certificate of `--tls-self-signed`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use thiserror::Error;

use super::self_signed;
use super::validity::validity;

/// The one protocol that is spoken inside.
const ALPN: &[u8] = b"http/1.1";

/// Session tickets after a handshake of TLS 1.3. A client that comes back on one connection needs
/// one; each costs 215 bytes on the wire (docs/decisions/tls.md).
const TICKETS: usize = 1;

/// How long before its end a certificate is warned about, in seconds: 14 days.
const WARN_BEFORE_S: i64 = 14 * 86_400;

/// The oldest version that is spoken.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub enum MinVersion {
    /// TLS 1.2, with forward secrecy and authenticated ciphers only.
    #[default]
    V12,
    /// TLS 1.3.
    V13,
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a TLS listener is told. Plain data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsSettings {
    /// Certificates; the first is shown where no other has the name that a client asks for.
    pub certificates: Vec<CertificateFiles>,
    /// The listener's address, for a certificate of our own making that is shown where there are no
    /// files.
    pub self_signed: Option<IpAddr>,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
    /// Certificates of those who sign clients' certificates: with it, clients must show one.
    pub client_ca: Option<PathBuf>,
    /// Whether sessions can be resumed by a ticket.
    pub resumes: bool,
}

/// Why there is no configuration. The text names the file and says what to do.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}; check the path and that this user may read it", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system, or the reader of PEM, says.
        error: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{path} holds no certificate; it must be PEM, the server's own certificate first: -----BEGIN CERTIFICATE-----", path = path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A key file holds no key.
    #[error("{path} holds no private key that can be read ({error}); it must be PEM without a passphrase: PKCS#8, PKCS#1 (RSA) or SEC1 (EC)", path = path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What the reader of PEM says.
        error: pem::Error,
    },
    /// The two do not belong together, or are of a kind that is not supported.
    #[error("{certificate} and {key} do not go together ({error}); give the key that the certificate was made for", certificate = files.certificate.display(), key = files.key.display())]
    Mismatch {
        /// Both files.
        files: CertificateFiles,
        /// What rustls says.
        error: rustls::Error,
    },
    /// A certificate cannot be understood.
    #[error("the first certificate in {path} cannot be understood ({error}); it must be X.509 version 3", path = path.display())]
    NotX509 {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        error: rustls::Error,
    },
    /// The certificates of client authorities are of no use.
    #[error("{path} cannot be used to check client certificates: {error}", path = path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// No certificate could be made.
    #[error("could not make a certificate for --tls-self-signed: {0}")]
    SelfSigned(rcgen::Error),
    /// Neither files nor a certificate of our own making.
    #[error("there is no certificate; give --tls-cert and --tls-key")]
    Nothing,
    /// rustls refuses.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// A certificate that is shown to clients, as operators are told about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Its file; none where it is our own making.
    pub file: Option<PathBuf>,
    /// SHA-256 of it, in hexadecimal with colons.
    pub fingerprint: String,
    /// Since when it is good, in seconds since 1970, where that can be read.
    pub not_before_unix_s: Option<i64>,
    /// Until when.
    pub not_after_unix_s: Option<i64>,
}

impl Shown {
    fn new(file: Option<&Path>, leaf: &CertificateDer<'_>) -> Shown {
        let validity = validity(leaf);
        let hash = digest(&SHA256, leaf);
        let hex: Vec<String> = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        Shown {
            file: file.map(Path::to_owned),
            fingerprint: hex.join(":"),
            not_before_unix_s: validity.map(|it| it.not_before_unix_s),
            not_after_unix_s: validity.map(|it| it.not_after_unix_s),
        }
    }

    /// What the operator should know about its dates at `unix_s`; nothing where all is well.
    pub fn warning(&self, unix_s: i64) -> Option<String> {
        let ends = self.not_after_unix_s?;
        let left = ends - unix_s;
        let days = left.abs() / 86_400;
        let advice = "put a new one into the files and reload";
        if left < 0 {
            Some(format!(
                "{self} is over since {days} days: clients refuse it; {advice}"
            ))
        } else if left <= WARN_BEFORE_S {
            Some(format!("{self} is over in {days} days; {advice}"))
        } else {
            let begins = self.not_before_unix_s.filter(|begins| *begins > unix_s)?;
            let days = (begins - unix_s) / 86_400;
            Some(format!(
                "{self} is good in {days} days only: clients refuse it; check the clock"
            ))
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "the certificate in {}", file.display()),
            None => f.write_str("the certificate of --tls-self-signed"),
        }
    }
}

/// What a load came to.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What listeners are told: `Mail::Tls`, or the admin listener's.
    pub config: Arc<ServerConfig>,
    /// The certificates in it, in order.
    pub shown: Vec<Shown>,
}

/// Loads the files of one listener, as often as asked.
pub struct TlsLoader {
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
    /// The keys of session tickets: they change by themselves, and outlive a certificate.
    tickets: Option<Arc<dyn ProducesTickets>>,
    self_signed: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for TlsLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLoader")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl TlsLoader {
    /// A loader with ticket keys of its own, and where `settings` ask for it with a certificate of
    /// our own making. `unix_s` is the time.
    ///
    /// # Errors
    /// Where no certificate can be made, or no random numbers can be had.
    pub fn new(settings: TlsSettings, unix_s: u64) -> Result<TlsLoader, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tickets = if settings.resumes {
            Some(rustls::crypto::aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?)
        } else {
            None
        };
        let self_signed = match settings.self_signed {
            Some(address) if settings.certificates.is_empty() => {
                let (certificate, key) =
                    self_signed::generate(address, unix_s).map_err(TlsError::SelfSigned)?;
                let certified = CertifiedKey::from_der(vec![certificate], key, &provider);
                Some(Arc::new(certified.map_err(TlsError::Setup)?))
            }
            _ => None,
        };
        Ok(TlsLoader {
            settings,
            provider,
            tickets,
            self_signed,
        })
    }

    /// Reads the files and makes a configuration of them.
    ///
    /// # Errors
    /// Where a file cannot be read or used. What was loaded before stays good.
    pub fn load(&self) -> Result<Loaded, TlsError> {
        let mut by_name = ByName::default();
        let mut shown = Vec::new();
        for files in &self.settings.certificates {
            let certified = self.certified(files)?;
            by_name.add(Some(&files.certificate), certified, &mut shown)?;
        }
        if let Some(certified) = &self.self_signed {
            by_name.add(None, Arc::clone(certified), &mut shown)?;
        }
        if shown.is_empty() {
            return Err(TlsError::Nothing);
        }
        let config = self.config(by_name)?;
        Ok(Loaded { config, shown })
    }

    fn certified(&self, files: &CertificateFiles) -> Result<Arc<CertifiedKey>, TlsError> {
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| {
            let path = files.key.clone();
            match error {
                pem::Error::Io(_) => TlsError::Unreadable { path, error },
                error => TlsError::NoKey { path, error },
            }
        })?;
        let certified = CertifiedKey::from_der(chain, key, &self.provider);
        certified.map(Arc::new).map_err(|error| TlsError::Mismatch {
            files: files.clone(),
            error,
        })
    }

    fn config(&self, by_name: ByName) -> Result<Arc<ServerConfig>, TlsError> {
        let versions: &[&SupportedProtocolVersion] = match self.settings.min_version {
            MinVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinVersion::V13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(TlsError::Setup)?;
        let builder = match &self.settings.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let refuse = |error: String| TlsError::ClientCa {
                    path: path.clone(),
                    error,
                };
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| refuse(e.to_string()))?;
                }
                let provider = Arc::clone(&self.provider);
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|e| refuse(e.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(by_name));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.max_early_data_size = 0;
        // A session is in its ticket, and nothing of it with us.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if let Some(tickets) = &self.tickets {
            config.ticketer = Arc::clone(tickets);
            config.send_tls13_tickets = TICKETS;
        }
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error| TlsError::Unreadable {
        path: path.to_owned(),
        error,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect();
    let chain = chain.map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(chain)
}

/// Chooses the certificate by the name that a client asks for.
#[derive(Default, Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ByName {
    fn add(
        &mut self,
        file: Option<&Path>,
        certified: Arc<CertifiedKey>,
        shown: &mut Vec<Shown>,
    ) -> Result<(), TlsError> {
        let path = file.unwrap_or(Path::new("--tls-self-signed"));
        let leaf = certified.end_entity_cert().map_err(TlsError::Setup)?;
        ParsedCertificate::try_from(leaf).map_err(|error| TlsError::NotX509 {
            path: path.to_owned(),
            error,
        })?;
        shown.push(Shown::new(file, leaf));
        self.0.push(certified);
        Ok(())
    }
}

fn is_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    certified
        .end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // One that the client can check: a name may have an ECDSA and an RSA certificate.
        let signs =
            |it: &&Arc<CertifiedKey>| it.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello
            .server_name()
            .and_then(|it| ServerName::try_from(it).ok());
        let named = name.and_then(|name| {
            let mut all = self.0.iter().filter(signs);
            all.find(|certified| is_for(certified, &name))
        });
        let first = || self.0.iter().find(signs).or_else(|| self.0.first());
        named.or_else(first).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_warned_about_before_its_end_and_after() {
        const DAY: i64 = 86_400;
        let shown = Shown {
            file: Some("a.pem".into()),
            fingerprint: String::new(),
            not_before_unix_s: Some(0),
            not_after_unix_s: Some(100 * DAY),
        };
        for (unix_s, part) in [
            (-DAY, Some("is good in 1 days only")),
            (0, None),
            (86 * DAY - 1, None),
            (86 * DAY, Some("is over in 14 days")),
            (100 * DAY, Some("is over in 0 days")),
            (103 * DAY, Some("is over since 3 days")),
        ] {
            let warning = shown.warning(unix_s);
            match part {
                None => assert_eq!(warning, None, "{unix_s}"),
                Some(part) => assert!(
                    warning.as_ref().is_some_and(|it| it.contains(part)),
                    "{unix_s}: {warning:?}"
                ),
            }
        }
    }

    #[test]
    fn without_files_and_without_a_certificate_of_our_own_there_is_nothing_to_show() {
        let settings = TlsSettings {
            certificates: Vec::new(),
            self_signed: None,
            min_version: MinVersion::V12,
            client_ca: None,
            resumes: true,
        };
        let loader = TlsLoader::new(settings.clone(), 0).unwrap();
        assert!(matches!(loader.load(), Err(TlsError::Nothing)));
        let made = TlsSettings {
            self_signed: Some([192, 0, 2, 1].into()),
            ..settings
        };
        let loader = TlsLoader::new(made, 1_800_000_000).unwrap();
        let [one, again] = [loader.load().unwrap(), loader.load().unwrap()];
        assert_eq!(one.shown, again.shown);
        assert_eq!(one.shown[0].fingerprint.len(), 3 * 32 - 1);
        assert_eq!(one.shown[0].warning(1_800_000_000), None);
    }
}

//! The certificate of `--tls-self-signed`: for development, made anew at each start.

use std::net::IpAddr;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// How long it is good, in days. A server that runs longer makes no new one.
const DAYS: u64 = 90;

/// Makes one for localhost, the loopback addresses and `address`, good from a day before `unix_s`.
pub(super) fn generate(
    address: IpAddr,
    unix_s: u64,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let mut names = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
    let listen = address.to_canonical().to_string();
    if !address.is_unspecified() && !names.contains(&listen) {
        names.push(listen);
    }
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "tidewheel development");
    // Counted from a date, so that no calendar is needed.
    let today = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(unix_s);
    params.not_before = today - std::time::Duration::from_secs(86_400);
    params.not_after = today + std::time::Duration::from_secs(DAYS * 86_400);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((certificate.der().clone(), PrivateKeyDer::from(key)))
}

//! Certificates that tests make, and the files they lie in.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidewheel-tls-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes a certificate for `names`, signed by itself, to `NAME.pem` and `NAME.key`.
pub fn write_pair(folder: &Folder, file: &str, names: &[&str]) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
    let certificate = CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    write_pem(
        &folder.path(&format!("{file}.pem")),
        "CERTIFICATE",
        certificate.der(),
    );
    write_pem(
        &folder.path(&format!("{file}.key")),
        "PRIVATE KEY",
        &key.serialize_der(),
    );
    certificate.der().clone()
}

/// An authority, written to `ca.pem`, and what it signed for a client.
pub fn write_authority(folder: &Folder) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    write_pem(&folder.path("ca.pem"), "CERTIFICATE", authority.der());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["operator".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (certificate.der().clone(), key)
}

fn write_pem(path: &Path, label: &str, der: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for (line, bytes) in der.chunks(3).enumerate() {
        let block =
            bytes.iter().fold(0u32, |sum, b| sum << 8 | u32::from(*b)) << (8 * (3 - bytes.len()));
        for place in 0..4 {
            let digit = DIGITS[(block >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place > bytes.len() { '=' } else { digit });
        }
        if line % 16 == 15 {
            text.push('\n');
        }
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    std::fs::write(path, text).unwrap();
}

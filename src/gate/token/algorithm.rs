//! The algorithms of signatures (RFC 7518 §3.1, RFC 8037 §3.1) and what kind of key each is of.

pub use jsonwebtoken::Algorithm;

use Algorithm::{
    ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
};

/// All that are known, with their names in `alg`. The names are case-sensitive; `none` is not among
/// them.
pub const ALL: [(Algorithm, &str); 12] = [
    (HS256, "HS256"),
    (HS384, "HS384"),
    (HS512, "HS512"),
    (RS256, "RS256"),
    (RS384, "RS384"),
    (RS512, "RS512"),
    (PS256, "PS256"),
    (PS384, "PS384"),
    (PS512, "PS512"),
    (ES256, "ES256"),
    (ES384, "ES384"),
    (EdDSA, "EdDSA"),
];

/// What a key is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A secret that both sides have.
    Secret,
    /// An RSA key.
    Rsa,
    /// A key on the curve P-256.
    P256,
    /// A key on the curve P-384.
    P384,
    /// A key on the curve Ed25519.
    Ed25519,
}

impl Kind {
    /// The algorithms of a key of this kind, where the key itself names none.
    ///
    /// A secret that names none is for HS256 alone: it is what every library takes when it is not
    /// told. An RSA key that names none is for all six of RSA, which share no weakness.
    pub fn default_algorithms(self) -> &'static [Algorithm] {
        match self {
            Kind::Secret => &[HS256],
            other => other.algorithms(),
        }
    }

    /// All algorithms that a key of this kind can be for.
    pub fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Kind::Secret => &[HS256, HS384, HS512],
            Kind::Rsa => &[RS256, RS384, RS512, PS256, PS384, PS512],
            Kind::P256 => &[ES256],
            Kind::P384 => &[ES384],
            Kind::Ed25519 => &[EdDSA],
        }
    }

    /// What it is called in messages.
    pub fn text(self) -> &'static str {
        match self {
            Kind::Secret => "a secret",
            Kind::Rsa => "an RSA key",
            Kind::P256 => "a P-256 key",
            Kind::P384 => "a P-384 key",
            Kind::Ed25519 => "an Ed25519 key",
        }
    }
}

/// Its name in `alg`.
pub fn name(algorithm: Algorithm) -> &'static str {
    let named = ALL.iter().find(|(known, _)| *known == algorithm);
    named.map_or("", |(_, name)| name)
}

/// The algorithm with this name.
pub fn from_name(name: &str) -> Option<Algorithm> {
    let named = ALL.iter().find(|(_, known)| *known == name);
    named.map(|(algorithm, _)| *algorithm)
}

/// The algorithm alone, in a list that lives as long as the program.
pub(super) fn alone(algorithm: Algorithm) -> &'static [Algorithm] {
    let of = |known: &'static (Algorithm, &str)| {
        (known.0 == algorithm).then_some(std::slice::from_ref(&known.0))
    };
    ALL.iter().find_map(of).unwrap_or_default()
}

/// The fewest bytes of a secret for it. RFC 7518 §3.2: as many as the hash has.
pub fn secret_bytes_min(algorithm: Algorithm) -> usize {
    match algorithm {
        HS384 => 48,
        HS512 => 64,
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_a_name_and_one_kind_or_a_family() {
        for (algorithm, name) in ALL {
            assert_eq!(from_name(name), Some(algorithm));
            assert_eq!(self::name(algorithm), name);
            assert_eq!(alone(algorithm), [algorithm]);
            let kinds = [
                Kind::Secret,
                Kind::Rsa,
                Kind::P256,
                Kind::P384,
                Kind::Ed25519,
            ];
            let of = kinds
                .iter()
                .filter(|kind| kind.algorithms().contains(&algorithm));
            assert_eq!(of.count(), 1, "{name}");
        }
        for text in [
            "none", "None", "NONE", "hs256", "HS256 ", "", "ES512", "ES256K",
        ] {
            assert_eq!(from_name(text), None, "{text}");
        }
    }
}

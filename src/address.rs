//! How cores name each other, each other's connections, rooms, and where peers are.

// Names of addresses alone: `core` has no sockets.
use core::net::{IpAddr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A core of the data plane: its index, from 0.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(pub u16);

impl CoreId {
    /// The core's place in tables of cores.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A connection, named so that another core may keep the name: once the slot is given to somebody
/// else the generation differs, and what was meant for the old peer is not handed to the new one.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionRef {
    /// The slot in its core's table.
    pub index: u32,
    /// Which use of the slot is meant, modulo 65,536.
    pub generation: u16,
    /// The core that owns the socket.
    pub core: CoreId,
}

/// A room's name with its seeded hash, which is the same on all cores of a node.
#[derive(Clone, Debug)]
pub struct RoomKey {
    hash: u64,
    name: Arc<str>,
}

impl RoomKey {
    /// Names a room; `hash` is its name's by the node's hasher.
    pub fn new(name: &str, hash: u64) -> RoomKey {
        RoomKey {
            hash,
            name: Arc::from(name),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of the name.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// Where rooms and users are at home: the same on all cores of a node, by the node's seed.
#[derive(Clone, Debug)]
pub struct Placement {
    hasher: ahash::RandomState,
    cores: u16,
}

impl Placement {
    /// The placement of a node with this seed and so many cores.
    pub fn new(seed: u64, cores: u16) -> Placement {
        let mut seeds = fastrand::Rng::with_seed(seed);
        let mut next = || seeds.u64(..);
        let hasher = ahash::RandomState::with_seeds(next(), next(), next(), next());
        Placement { hasher, cores }
    }

    /// The hasher, for tables of the node's own.
    pub fn hasher(&self) -> &ahash::RandomState {
        &self.hasher
    }

    /// The hash of a room's name or a user's id.
    pub fn hash_one(&self, name: impl std::hash::Hash) -> u64 {
        self.hasher.hash_one(name)
    }

    /// A room's name with its hash.
    pub fn room(&self, name: &str) -> RoomKey {
        RoomKey::new(name, self.hash_one(name))
    }

    /// The core where a hash is at home. The high bits decide, so that the tables of a core, which
    /// use the low ones, stay well spread.
    pub fn home_of(&self, hash: u64) -> CoreId {
        CoreId(((u128::from(hash) * u128::from(self.cores)) >> 64) as u16)
    }
}

/// Where a peer is: an IP address. IPv4 and its form within IPv6 (`::ffff:a.b.c.d`) are the same.
#[derive(Copy, Clone, PartialEq, Eq, Hash)]
pub struct PeerAddress([u8; 16]);

/// What counts as one place: an IPv4 address, or the 64 bits of an IPv6 address that name a network.
/// Whoever has one such network has 2⁶⁴ addresses to come from.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum PlaceKey {
    /// All of an IPv4 address.
    V4(u32),
    /// The first half of an IPv6 address.
    V6(u64),
}

impl PeerAddress {
    /// From the 16 bytes of an IPv6 address.
    pub fn from_bytes(bytes: [u8; 16]) -> PeerAddress {
        PeerAddress(bytes)
    }

    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }

    /// What counts as the same place.
    pub fn place(self) -> PlaceKey {
        match self.ip() {
            IpAddr::V4(address) => PlaceKey::V4(address.to_bits()),
            IpAddr::V6(address) => PlaceKey::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl From<IpAddr> for PeerAddress {
    fn from(address: IpAddr) -> PeerAddress {
        match address {
            IpAddr::V4(address) => PeerAddress(address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => PeerAddress(address.octets()),
        }
    }
}

/// A text that is no address.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an IP address")]
pub struct NotAnAddress;

impl FromStr for PeerAddress {
    type Err = NotAnAddress;

    /// Reads an address without a port.
    fn from_str(text: &str) -> Result<PeerAddress, NotAnAddress> {
        let address: IpAddr = text.parse().map_err(|_| NotAnAddress)?;
        Ok(address.into())
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerAddress({self})")
    }
}

/// Addresses that begin with the same bits: `10.0.0.0/8`, `2001:db8::/32`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Network {
    first: PeerAddress,
    /// Bits of the 128 that are the same for all.
    bits: u32,
}

/// Why a text names no network.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadNetwork {
    /// Not `ADDRESS` or `ADDRESS/BITS`.
    #[error("not a network; write an address, or an address and bits, such as 10.0.0.0/8")]
    NotANetwork,
    /// More bits than an address has.
    #[error("an address has no more than {0} bits")]
    TooManyBits(u32),
    /// It has bits behind the prefix, so that the network may be another than was meant.
    #[error("there is something behind the first {0} bits; write {1} for the network")]
    HostBits(u32, PeerAddress),
}

impl Network {
    /// Whether an address is in it.
    pub fn contains(&self, address: PeerAddress) -> bool {
        masked(address, self.bits) == self.first
    }
}

/// The address with all but the first `bits` of its 128 cleared.
fn masked(address: PeerAddress, bits: u32) -> PeerAddress {
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    PeerAddress((u128::from_be_bytes(address.0) & mask).to_be_bytes())
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Network, BadNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadNetwork::NotANetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let is_number = |bits: &&str| bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => most,
            Some(bits) => Some(bits)
                .filter(is_number)
                .and_then(|bits| bits.parse().ok())
                .ok_or(BadNetwork::NotANetwork)?,
        };
        if bits > most {
            return Err(BadNetwork::TooManyBits(most));
        }
        let all_bits = bits + 128 - most;
        let first = masked(address.into(), all_bits);
        if first != address.into() {
            return Err(BadNetwork::HostBits(bits, first));
        }
        Ok(Network {
            first,
            bits: all_bits,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = match self.first.ip() {
            IpAddr::V4(_) if self.bits >= 96 => self.bits - 96,
            _ => self.bits,
        };
        write!(f, "{}/{bits}", self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> PeerAddress {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_is_an_address_of_ipv4_and_a_network_of_ipv6() {
        assert_eq!(address("1.2.3.4"), address("::ffff:1.2.3.4"));
        assert_eq!(address("::ffff:1.2.3.4").to_string(), "1.2.3.4");
        let table = [
            ("1.2.3.4", "::ffff:1.2.3.4", true),
            ("1.2.3.4", "1.2.3.5", false),
            ("2001:db8::1", "2001:db8::ffff:0:0:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("0.0.0.0", "::1", false),
        ];
        for (one, other, same) in table {
            let places = (address(one).place(), address(other).place());
            assert_eq!(places.0 == places.1, same, "{one} {other}");
        }
    }

    #[test]
    fn a_network_holds_what_begins_alike() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "a00::1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "255.1.1.1", true),
            ("0.0.0.0/0", "2001::1", false),
            ("::/0", "2001::1", true),
            ("::/0", "1.2.3.4", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ];
        for (text, one, expected) in table {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.contains(address(one)), expected, "{text} {one}");
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        use BadNetwork::{HostBits, NotANetwork, TooManyBits};
        let table = [
            ("", NotANetwork),
            ("10.0.0.0/", NotANetwork),
            ("10.0.0.0/+8", NotANetwork),
            ("10.0.0/8", NotANetwork),
            ("localhost", NotANetwork),
            ("10.0.0.0/33", TooManyBits(32)),
            ("::/129", TooManyBits(128)),
            ("10.0.0.1/8", HostBits(8, address("10.0.0.0"))),
        ];
        for (text, fault) in table {
            assert_eq!(text.parse::<Network>(), Err(fault), "{text}");
        }
        for text in ["", "1.2.3", "1.2.3.4:80", "[::1]", " ::1"] {
            assert!(text.parse::<PeerAddress>().is_err(), "{text}");
        }
    }
}

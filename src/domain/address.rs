//! Where a client connects from, as EMQX reports it.
//!
//! What EMQX writes into `peerhost` is text from outside: it may be missing, empty, `undefined`
//! (docs/EMQX.md), or anything else where another configuration fills it in. It is parsed once, here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// A client's address, as far as limits distinguish addresses: an IPv4 address, or the /64 network of
/// an IPv6 address. A household or a rented server has a whole /64 (RFC 6177, RIPE-690), so single
/// IPv6 addresses would limit nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(IpNet);

/// The prefix of an IPv6 network that is one address here.
const IPV6_PREFIX: u8 = 64;

/// A text that is neither an IP address nor a network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "is not a valid address; write an IP address such as 192.0.2.7 or 2001:db8::7, or a network such as 192.0.2.0/24"
)]
pub struct AddressError;

impl Address {
    /// The address of a client by EMQX's `peerhost`; `None` where that is not an IP address.
    #[must_use]
    pub fn of_peer(peerhost: &str) -> Option<Self> {
        // `fe80::1%eth0`: the zone only means something on the host that wrote it.
        let host = peerhost.trim().split('%').next()?;
        host.parse::<IpAddr>().ok().map(Self::from)
    }

    /// Whether it lies in a network.
    #[must_use]
    pub fn is_in(&self, network: &IpNet) -> bool {
        network.contains(&self.0.addr()) || network.contains(&self.0)
    }

    /// As a network, for the database.
    #[must_use]
    pub fn network(&self) -> IpNet {
        self.0
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        // A listener on `::` sees IPv4 clients as ::ffff:192.0.2.7.
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpNet::from(IpAddr::V4(v4)),
            IpAddr::V6(v6) => {
                let masked = Ipv6Addr::from(u128::from(v6) & (u128::MAX << (128 - IPV6_PREFIX)));
                IpNet::new_assert(IpAddr::V6(masked), IPV6_PREFIX)
            }
        })
    }
}

impl From<IpNet> for Address {
    fn from(network: IpNet) -> Self {
        Self::from(network.addr())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpNet::V4(v4) => v4.addr().fmt(f),
            IpNet::V6(v6) => v6.fmt(f),
        }
    }
}

/// An address or a network, as an operator writes it in a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange(pub IpNet);

impl FromStr for AddressRange {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = |text: &str| text.parse::<IpAddr>().ok().map(|one| Address::from(one).0);
        let network = || text.parse::<IpNet>().ok().map(|network| as_addresses(network).trunc());
        address(text).or_else(network).map(Self).ok_or(AddressError)
    }
}

/// A network of [`Address`]es: one of a /64 at least, and of IPv4 addresses where it holds them in IPv6's form.
fn as_addresses(network: IpNet) -> IpNet {
    /// Of `::ffff:0:0`, below which IPv6 has the IPv4 addresses.
    const MAPPED_PREFIX: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_PREFIX));
    match mapped {
        Some((v4, prefix)) => Ipv4Net::new(v4, prefix).map_or(network, IpNet::V4),
        None => {
            Ipv6Net::new(v6.addr(), v6.prefix_len().min(IPV6_PREFIX)).map_or(network, IpNet::V6)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(peerhost: &str) -> Option<String> {
        Address::of_peer(peerhost).map(|address| address.to_string())
    }

    #[test]
    fn an_address_is_a_single_ipv4_or_a_64_of_ipv6() {
        assert_eq!(shown("192.0.2.7").as_deref(), Some("192.0.2.7"));
        assert_eq!(shown("::ffff:192.0.2.7").as_deref(), Some("192.0.2.7"));
        assert_eq!(shown("2001:db8:1:2:3:4:5:6").as_deref(), Some("2001:db8:1:2::/64"));
        assert_eq!(Address::of_peer("2001:db8::1"), Address::of_peer("2001:db8::ffff:1"));
        assert_ne!(Address::of_peer("2001:db8::1"), Address::of_peer("2001:db8:0:1::1"));
        assert_eq!(shown("fe80::1%eth0").as_deref(), Some("fe80::/64"));
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in
            ["", "undefined", "unknown", "192.0.2.7:1883", "192.0.2", "192.0.2.7, 10.0.0.1", "\0"]
        {
            assert_eq!(Address::of_peer(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_network_holds_its_addresses() {
        let network: IpNet = "10.0.0.0/8".parse().unwrap();
        assert!(Address::of_peer("10.1.2.3").unwrap().is_in(&network));
        assert!(!Address::of_peer("11.1.2.3").unwrap().is_in(&network));
        assert!(!Address::of_peer("2001:db8::1").unwrap().is_in(&network));
        let range = |text: &str| text.parse::<AddressRange>().unwrap().0.to_string();
        assert_eq!(range("10.1.2.3/8"), "10.0.0.0/8");
        assert_eq!(range("2001:db8::7"), "2001:db8::/64");
        assert_eq!(range("2001:db8::7/128"), "2001:db8::/64");
        assert_eq!(range("2001:db8:1::7/40"), "2001:db8::/40");
        assert_eq!(range("::ffff:10.1.2.3/104"), "10.0.0.0/8");
        assert_eq!(range("::/0"), "::/0");
        assert!("nobody".parse::<AddressRange>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,60}") {
            let _ = Address::of_peer(&text);
        }

        #[test]
        fn an_ipv6_address_and_its_neighbours_are_one(high in any::<u64>(), low in any::<u64>(), other in any::<u64>()) {
            let at = |low: u64| Address::from(IpAddr::V6(Ipv6Addr::from(u128::from(high) << 64 | u128::from(low))));
            // Mapped IPv4 lies in ::/64 and is told apart.
            prop_assume!(high != 0);
            prop_assert_eq!(at(low), at(other));
        }
    }
}

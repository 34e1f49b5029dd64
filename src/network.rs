//! Networks in CIDR notation (RFC 4632 3.1, RFC 4291 2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of IP addresses: all that share a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of all addresses whose first `prefix` bits are those of `address`. An IPv4 network written as
    /// mapped IPv6 (`::ffff:10.0.0.0/104`) becomes the IPv4 one.
    ///
    /// # Errors
    ///
    /// In words: a prefix longer than an address, or an address with bits set beyond the prefix.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Network, String> {
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits_max {
            return Err(format!("`/{prefix}` is longer than the address: at most `/{bits_max}`"));
        }
        let base = masked(address, prefix);
        if base != address {
            return Err(format!(
                "`{address}/{prefix}` has bits set beyond its prefix: write `{base}/{prefix}`"
            ));
        }
        Ok(match address {
            IpAddr::V6(v6) if prefix >= 96 && v6.to_ipv4_mapped().is_some() => {
                Network { address: address.to_canonical(), prefix: prefix - 96 }
            }
            _ => Network { address, prefix },
        })
    }

    /// The network of that prefix that `address` lies in; the whole address where the prefix is longer.
    pub fn around(address: IpAddr, prefix: u8) -> Network {
        let prefix = prefix.min(if address.is_ipv4() { 32 } else { 128 });
        Network { address: masked(address, prefix), prefix }
    }

    /// Whether its addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// How many leading bits the addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `address` is in this network. An IPv4 address in its mapped IPv6 form (RFC 4291 2.5.5.2), as a
    /// dual-stack socket reports it, counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address.to_canonical(), self.prefix) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    /// `10.0.0.0/8`, `2001:db8::/32`, or one address alone.
    fn from_str(text: &str) -> Result<Network, String> {
        let (address_text, prefix_text) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let malformed =
            || format!("`{text}` is not a network: write it like `10.0.0.0/8` or `2001:db8::/32`");
        let address: IpAddr = address_text.parse().map_err(|_| malformed())?;
        let prefix = match prefix_text {
            None if address.is_ipv4() => 32,
            None => 128,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| malformed())?
            }
            Some(_) => return Err(malformed()),
        };
        Network::new(address, prefix)
    }
}

/// `address` with all bits after the first `prefix` cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect("a valid network")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a valid address")
    }

    #[test]
    fn contains_by_prefix() {
        for (net, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.128/25", "192.0.2.200", "192.0.2.127"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
        ] {
            assert!(network(net).contains(ip(inside)), "{net} has {inside}");
            assert!(!network(net).contains(ip(outside)), "{net} has not {outside}");
        }
        assert!(network("0.0.0.0/0").contains(ip("203.0.113.9")));
        assert!(network("::/0").contains(ip("2001:db8::1")));
    }

    #[test]
    fn families_do_not_mix_but_mapped_is_v4() {
        assert!(!network("0.0.0.0/0").contains(ip("2001:db8::1")));
        assert!(!network("::/0").contains(ip("192.0.2.1")));
        assert!(network("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
        assert!(!network("10.0.0.0/8").contains(ip("::ffff:11.1.2.3")));
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
    }

    #[test]
    fn displays_as_written() {
        for text in ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "::1/128"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("127.0.0.1").to_string(), "127.0.0.1/32");
    }

    #[test]
    fn refuses_what_is_no_network() {
        for (text, part) in [
            ("10.0.0.0/33", "at most `/32`"),
            ("10.1.2.3/8", "write `10.0.0.0/8`"),
            ("10.0.0.0/", "is not a network"),
            ("10.0.0.0/+8", "is not a network"),
            ("10.0.0.0/999", "is not a network"),
            ("localhost", "is not a network"),
            ("", "is not a network"),
        ] {
            let error = text.parse::<Network>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

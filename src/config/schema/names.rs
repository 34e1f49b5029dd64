//! Names and addresses: what is well formed.

use std::net::{IpAddr, SocketAddr};

use super::Taken;
use crate::config::section::{Located, Section};
use crate::config::similar::nearest;

/// Longest name of a listener, pool or upstream: they become labels and columns.
const NAME_BYTES_MAX: usize = 64;

/// A host's name as a mail server must say it: letters, digits and hyphens between dots (RFC 5321 4.1.2 `Domain`,
/// lengths of RFC 1035 2.3.4).
pub(super) fn check_hostname(text: &str) -> Result<(), String> {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let fits = (1..=253).contains(&text.len());
    if fits && text.split('.').all(label_ok) && text.parse::<IpAddr>().is_err() {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a host name: write letters, digits, `-` and dots, like `mail.example.net`",
        text.escape_debug()
    ))
}

/// An address for mail: a dot-string of RFC 5321 4.1.2 and a host's name, 254 bytes at most.
pub(super) fn check_mailbox(text: &str) -> Result<(), String> {
    let atom_ok = |atom: &str| {
        let special = |byte: u8| b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
        !atom.is_empty() && atom.bytes().all(|byte| byte.is_ascii_alphanumeric() || special(byte))
    };
    let well_formed = text.rsplit_once('@').is_some_and(|(local, domain)| {
        local.len() <= 64 && local.split('.').all(atom_ok) && check_hostname(domain).is_ok()
    });
    if well_formed && text.len() <= 254 {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a mail address: write it like `MAILER-DAEMON@mail.example.net`",
        text.escape_debug()
    ))
}

/// A name people give to a listener, pool or upstream: 1 to 64 printable ASCII characters without spaces, quotes
/// and backslashes, so that it can stand in a command, a URL's path and a metric's label.
fn check_name(text: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"'`\\/".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!(
        "`{}` will not do: write 1 to {NAME_BYTES_MAX} letters, digits and signs, without spaces, quotes, `/`, `\\`",
        text.escape_debug()
    ))
}

/// The `name` of a section, which nothing else of its kind may have.
pub(super) fn name(
    section: &mut Section<'_, '_>,
    title: &str,
    taken: &mut Taken<String>,
) -> Option<Located<String>> {
    let name = section.parsed("name", |text| check_name(text).map(|()| text.to_owned()));
    if section.key_at("name").is_none() {
        section.missing(format!("`{title}` has no `name`: add `name = \"...\"`"));
    }
    let name = name?;
    taken.claim(section.report, &name, |value| format!("`{value}` is already the name of a `{title}`"));
    Some(name)
}

/// What is said of a name that nothing has. `names`: those that there are.
pub(super) fn unknown<'a>(kind: &str, name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let advice = match nearest(name, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() || names.len() > 8 => format!("write the name of a {kind}"),
        None => format!("write one of `{}`", names.join("`, `")),
    };
    format!("there is no {kind} `{}`; {advice}", name.escape_debug())
}

/// An IP address and a port. `port` is what the advice suggests.
pub(super) fn parse_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(format!(
                "`{text}` has port 0: write the port, like `{}`",
                SocketAddr::new(address.ip(), port)
            )),
            _ => Ok(address),
        };
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Err(format!("`{text}` has no port: write `{}`", SocketAddr::new(ip, port)));
    }
    Err(format!(
        "`{}` is not an IP address and a port: write it like `127.0.0.1:{port}` or `[::1]:{port}`",
        text.escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames() {
        let long_label = "a".repeat(63);
        let longest = [long_label.as_str(); 3].join(".") + "." + &"b".repeat(61);
        for good in
            ["mx", "out1.example.net", "xn--bcher-kva.example", "1and1.example", &long_label, &longest]
        {
            assert_eq!(check_hostname(good), Ok(()));
        }
        let (too_long_label, too_long) = ("a".repeat(64), longest.clone() + "b");
        for bad in [
            "",
            ".",
            "a..b",
            "a.",
            "my_box",
            "-a.b",
            "a-.b",
            "b\u{fc}cher.example",
            "10.0.0.1",
            "a b",
            &too_long_label,
            &too_long,
        ] {
            assert!(check_hostname(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mailboxes() {
        for good in ["MAILER-DAEMON@out1.example.net", "a.b+c@x", "o'neil@example.net"] {
            assert_eq!(check_mailbox(good), Ok(()));
        }
        for bad in ["", "@x", "a@", "a", "a..b@x", "a b@x", "<a@x>", "a@[10.0.0.1]", "a@b@c.d", "a\r\n@x"] {
            assert!(check_mailbox(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert!(parse_address("0.0.0.0:25", 25).is_ok());
        assert!(parse_address("[2001:db8::1]:25", 25).is_ok());
        let error = |text| parse_address(text, 25).expect_err("refused");
        assert!(error("10.0.0.1").contains("write `10.0.0.1:25`"));
        assert!(error("::1").contains("write `[::1]:25`"));
        assert!(error("10.0.0.1:0").contains("has port 0"));
        assert!(error("localhost:25").contains("not an IP address"));
        assert!(error("10.0.0.1:65536").contains("not an IP address"));
    }
}

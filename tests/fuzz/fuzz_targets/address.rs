//! Any bytes as a path, and as arguments of MAIL and RCPT: what is taken can be said again and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postlane::protocol::address;
use postlane::protocol::{Mail, Recipient};

fuzz_target!(|data: &[u8]| {
    let _ = address::domain(data);
    if let Ok((path, rest)) = address::path(data) {
        assert!(data.ends_with(rest) && path.len() + 2 <= address::PATH_MAX);
        assert!(std::str::from_utf8(path).is_ok());
        assert!(!path.iter().any(|&b| b < 32 || b == 127));
        let again = [b"<", path, b">"].concat();
        assert_eq!(address::path(&again), Ok((path, &b""[..])));
        let domain = address::domain(path);
        assert!(path.ends_with(domain) && domain.len() <= address::DOMAIN_MAX && !domain.contains(&b'@'));
    }
    for extended in [false, true] {
        if let Ok(mail) = Mail::parse(data, extended) {
            assert!(mail.path.is_ascii() || mail.parameters.utf8);
        }
        if let Ok(recipient) = Recipient::parse(data, extended, false) {
            assert!(recipient.path.is_ascii() && !recipient.path.is_empty());
            let mut line = Vec::new();
            recipient.write(true, &mut line);
            let arguments = line
                .strip_prefix(b"RCPT ")
                .and_then(|line| line.strip_suffix(b"\r\n"));
            assert_eq!(
                Recipient::parse(arguments.expect("a command"), true, false),
                Ok(recipient)
            );
        }
    }
});

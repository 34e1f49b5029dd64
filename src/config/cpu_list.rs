//! CPU lists as the kernel writes them: `2-4,8`.

use std::fmt;
use std::str::FromStr;

/// The highest CPU number a list may hold; the kernel's own bound is `CONFIG_NR_CPUS`, at most 8192.
const CPU_MAX: u32 = 8191;

/// CPUs in the order written, none twice.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CpuList(pub Vec<u32>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<CpuList, String> {
        let malformed = || format!("`{text}` is not a list of CPUs: write it like `2-9` or `2-4,8`");
        let number = |digits: &str| -> Result<u32, String> {
            let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let cpu = digits.parse().ok().filter(|_| all_digits).ok_or_else(malformed)?;
            if cpu > CPU_MAX {
                return Err(format!("CPU {cpu} is beyond the highest there can be ({CPU_MAX})"));
            }
            Ok(cpu)
        };
        let mut cpus = Vec::new();
        let mut seen = vec![false; CPU_MAX as usize + 1];
        for part in text.split(',') {
            let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("the range `{first}-{last}` runs backwards: write `{last}-{first}`"));
            }
            for cpu in first..=last {
                if std::mem::replace(&mut seen[cpu as usize], true) {
                    return Err(format!("CPU {cpu} is named twice: name it once"));
                }
                cpus.push(cpu);
            }
        }
        Ok(CpuList(cpus))
    }
}

impl fmt::Display for CpuList {
    /// Runs of consecutive numbers are drawn together, in the order of the list.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut separator = "";
        while let Some(&first) = rest.first() {
            let run = (first..).zip(rest).take_while(|(expected, cpu)| expected == *cpu).count();
            let last = rest[run - 1];
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, cpus) in [("2-9", (2..=9).collect()), ("2-4,8", vec![2, 3, 4, 8]), ("5-5", vec![5])] {
            let list: CpuList = text.parse().expect("a valid list");
            assert_eq!(list.0, cpus);
        }
        for text in ["2-9", "2-4,8", "0", "8,2-3", "0-1,4-5"] {
            assert_eq!(text.parse::<CpuList>().expect("a valid list").to_string(), text);
        }
        assert_eq!("1, 2,3".parse::<CpuList>().expect("spaces are taken").to_string(), "1-3");
        assert_eq!(CpuList(vec![]).to_string(), "");
    }

    #[test]
    fn refuses() {
        for (text, part) in [
            ("", "not a list"),
            ("a-b", "not a list"),
            ("1,,2", "not a list"),
            ("+1", "not a list"),
            ("1-2-3", "not a list"),
            ("9-2", "write `2-9`"),
            ("1-3,2", "CPU 2 is named twice"),
            ("0-4294967295", "beyond the highest"),
        ] {
            let error = text.parse::<CpuList>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

//! Sets of CPUs in the kernel's list format (`Documentation/admin-guide/cputopology.rst`): `2-4,8`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// The highest CPU number taken: the kernel's `CONFIG_NR_CPUS` goes to 8192 at most.
const CPU_MAX: u32 = 8191;

/// A set of CPUs, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct CpuSet(Vec<u32>);

/// A text that is not a list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSetError(String);

impl fmt::Display for CpuSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a list of CPUs like `2-4,8`", self.0.escape_debug())
    }
}

impl std::error::Error for CpuSetError {}

impl CpuSet {
    /// Whether the set has this CPU.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.binary_search(&cpu).is_ok()
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a mask as the kernel writes it: groups of 32 bits in hexadecimal, the highest first, `0000000f,00000001`.
    ///
    /// # Errors
    /// What is no such mask.
    pub fn from_mask(text: &str) -> Result<CpuSet, CpuSetError> {
        let malformed = || CpuSetError(text.to_owned());
        let mut cpus = Vec::new();
        for (group, digits) in (0_u32..).zip(text.trim().rsplit(',')) {
            let bits = u32::from_str_radix(digits, 16).map_err(|_| malformed())?;
            cpus.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| group * 32 + bit));
            if group > CPU_MAX / 32 {
                return Err(malformed());
            }
        }
        Ok(cpus.into_iter().collect())
    }

    /// The set as such a mask.
    pub fn to_mask(&self) -> String {
        let groups = self.0.last().map_or(0, |highest| highest / 32);
        let group = |group: u32| {
            self.iter().filter(|cpu| cpu / 32 == group).fold(0_u32, |bits, cpu| bits | 1 << (cpu % 32))
        };
        let rest = (0..groups).rev().map(|n| format!(",{:08x}", group(n))).collect::<String>();
        format!("{:x}{rest}", group(groups))
    }

    /// The CPUs of this set that are not in the other.
    pub fn without(&self, other: &CpuSet) -> CpuSet {
        self.iter().filter(|cpu| !other.contains(*cpu)).collect()
    }

    /// The CPUs that are in both sets.
    pub fn intersection(&self, other: &CpuSet) -> CpuSet {
        self.iter().filter(|cpu| other.contains(*cpu)).collect()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let mut cpus: Vec<u32> = cpus.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        CpuSet(cpus)
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    /// Blanks around are ignored, and the empty text is the empty set, as in the kernel's files.
    fn from_str(text: &str) -> Result<CpuSet, CpuSetError> {
        let malformed = || CpuSetError(text.to_owned());
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|cpu: &u32| plain && *cpu <= CPU_MAX).ok_or_else(malformed)
        };
        let mut cpus = Vec::new();
        for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(malformed());
            }
            cpus.extend(first..=last);
            if cpus.len() > 4 * CPU_MAX as usize {
                return Err(malformed());
            }
        }
        Ok(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut separator = "";
        while let Some(&first) = rest.first() {
            let run = (first..).zip(rest).take_while(|(expected, cpu)| expected == *cpu).count();
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{}", rest[run - 1])?,
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
    fn reads_what_it_writes() {
        for text in ["", "0", "0-3", "2-4,8", "0,2,4-5", "0-8191"] {
            let set: CpuSet = text.parse().expect(text);
            assert_eq!(set.to_string(), text);
        }
        assert_eq!(" 8,2-4,3\n".parse::<CpuSet>().expect("sorted").to_string(), "2-4,8");
    }

    #[test]
    fn refuses_what_is_no_list() {
        let long = "0-8191,".repeat(5);
        for text in ["a", "1-", "-1", "3-2", "1,,2", "1, 2", "+1", "0-8192", "0-4294967295", long.as_str()] {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn masks_are_read_as_written() {
        for (mask, list) in [("0", ""), ("f", "0-3"), ("80000000", "31"), ("1,00000001", "0,32")] {
            let set: CpuSet = list.parse().expect(list);
            assert_eq!(set.to_mask(), mask);
            assert_eq!(CpuSet::from_mask(&format!("00000000,{mask:0>8}\n")).expect(mask), set);
            assert_eq!(CpuSet::from_mask(mask).expect(mask), set);
        }
        for text in ["", "g", "1,,1", "-1"] {
            assert!(CpuSet::from_mask(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sets() {
        let set: CpuSet = [8, 2, 3, 2].into_iter().collect();
        assert_eq!(set.len(), 3);
        assert!(set.contains(8) && !set.contains(4));
        assert_eq!(set.intersection(&[3, 4, 8].into_iter().collect()).to_string(), "3,8");
    }
}

//! Code built a second time, for the widest vectors that this processor may have.
#![allow(unsafe_code)]

/// A loop over octets that the compiler makes SIMD of. `run` is to be `#[inline(always)]`, and so is all that it calls:
/// only what becomes part of its caller is built for that one's vectors.
pub trait Kernel {
    /// What it tells of them.
    type Output;

    /// Looks at them.
    fn run(octets: &[u8]) -> Self::Output;
}

/// The best build of a kernel for this processor, which is asked now: with AVX2 if it has that, else as everything else.
pub fn widest<K: Kernel>() -> fn(&[u8]) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return |octets| unsafe { with_avx2::<K>(octets) };
    }
    narrow::<K>
}

#[inline(never)]
fn narrow<K: Kernel>(octets: &[u8]) -> K::Output {
    K::run(octets)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline(never)]
fn with_avx2<K: Kernel>(octets: &[u8]) -> K::Output {
    K::run(octets)
}

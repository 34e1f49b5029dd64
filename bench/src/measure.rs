//! What a process spends, seen from outside: CPU time, switches, memory, system calls.

use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::sys;

/// CPU time the calling thread has taken so far.
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(sys::thread_cpu_time_ns())
}

/// What a process spent between [`Sampler::start`] and [`Sampler::finish`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// The process.
    pub pid: u32,
    /// Wall time.
    pub wall_seconds: f64,
    /// CPU time of all its threads, user and system, in microseconds (`clock_getcpuclockid(3)`: to the nanosecond,
    /// io_uring's workers and threads that have ended included).
    pub cpu_us: f64,
    /// Context switches it asked for, over the threads there at the end.
    pub voluntary_switches: u64,
    /// Context switches forced on it.
    pub involuntary_switches: u64,
    /// Resident memory at the end, in KiB.
    pub rss_kib: u64,
    /// The most it ever was, in KiB.
    pub peak_rss_kib: u64,
    /// System calls, where they could be counted.
    pub syscalls: Option<u64>,
    /// Why they could not.
    pub syscalls_missing: Option<String>,
}

/// Watches a process.
pub struct Sampler {
    pid: u32,
    started: Instant,
    cpu_ns: u64,
    before: Switches,
    perf: Result<Perf, String>,
}

impl Sampler {
    /// Starts watching. System calls are not counted: see [`Sampler::start_counting_calls`].
    ///
    /// # Errors
    /// When there is no such process, or it cannot be looked at.
    pub fn start(pid: u32) -> io::Result<Self> {
        Sampler::with(pid, Err("not asked for".into()))
    }

    /// As [`Sampler::start`], with `perf stat` counting system calls where perf is there and may. Counting
    /// makes each call of the process about 0.1 µs dearer, so a CPU figure is better taken without.
    ///
    /// # Errors
    /// As [`Sampler::start`]; when perf does not work, [`Usage::syscalls_missing`] says why.
    pub fn start_counting_calls(pid: u32) -> io::Result<Self> {
        Sampler::with(pid, Perf::start(pid))
    }

    fn with(pid: u32, perf: Result<Perf, String>) -> io::Result<Self> {
        let before = Switches::of(pid)?;
        Ok(Sampler { pid, started: Instant::now(), cpu_ns: sys::cpu_time_ns(pid)?, before, perf })
    }

    /// CPU time since the start, in microseconds.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_us(&self) -> io::Result<f64> {
        Ok((sys::cpu_time_ns(self.pid)? - self.cpu_ns) as f64 / 1e3)
    }

    /// Stops watching.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn finish(self) -> io::Result<Usage> {
        let cpu_us = self.cpu_us()?;
        let wall_seconds = self.started.elapsed().as_secs_f64();
        let counted = self.perf.and_then(Perf::finish);
        let after = Switches::of(self.pid)?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        Ok(Usage {
            pid: self.pid,
            wall_seconds,
            cpu_us,
            voluntary_switches: after.voluntary.saturating_sub(self.before.voluntary),
            involuntary_switches: after.involuntary.saturating_sub(self.before.involuntary),
            rss_kib: field(&status, "VmRSS"),
            peak_rss_kib: field(&status, "VmHWM"),
            syscalls: counted.as_ref().ok().copied(),
            syscalls_missing: counted.err(),
        })
    }
}

struct Switches {
    voluntary: u64,
    involuntary: u64,
}

impl Switches {
    fn of(pid: u32) -> io::Result<Self> {
        let mut sum = Switches { voluntary: 0, involuntary: 0 };
        let path = format!("/proc/{pid}/task");
        let tasks = fs::read_dir(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("process {pid}: {path}: {error}")))?;
        for task in tasks.flatten() {
            // A thread that has just ended has no status any more.
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            sum.voluntary += field(&status, "voluntary_ctxt_switches");
            sum.involuntary += field(&status, "nonvoluntary_ctxt_switches");
        }
        Ok(sum)
    }
}

/// The number of a `Name:  number unit` line (proc_pid_status(5)); 0 where there is none.
fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A running `perf stat` that counts the system calls of a process.
struct Perf(Child);

impl Perf {
    fn start(pid: u32) -> Result<Self, String> {
        let child = Command::new("perf")
            .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        child.map(Perf).map_err(|error| format!("perf cannot be run: {error}"))
    }

    fn finish(mut self) -> Result<u64, String> {
        if let Ok(Some(status)) = self.0.try_wait()
            && !status.success()
        {
            let output = self.0.wait_with_output().map_err(|error| format!("perf: {error}"))?;
            let text = String::from_utf8_lossy(&output.stderr);
            let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(format!("perf ended with {status}: {line}"));
        }
        sys::interrupt(&self.0).map_err(|error| format!("perf: {error}"))?;
        let output = self.0.wait_with_output().map_err(|error| format!("perf: {error}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|line| line.contains("raw_syscalls:sys_enter")).unwrap_or_default();
        let count = line.split(',').next().unwrap_or_default();
        count.parse().map_err(|_| format!("perf counted nothing: {}", text.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_seen_from_outside() {
        let mut child = Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; read line"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let sampler = Sampler::start(child.id()).expect("it is there");
        let mut busy = 0.0;
        for _ in 0..2_000 {
            busy = sampler.cpu_us().expect("it is there");
            if busy > 20_000.0 {
                break;
            }
            std::thread::yield_now();
            std::thread::sleep(Duration::from_millis(1));
        }
        let usage = sampler.finish().expect("it is there");
        assert!(usage.cpu_us >= busy && busy > 20_000.0, "{usage:?}");
        assert!(usage.cpu_us <= usage.wall_seconds * 1e6 * 1.5, "{usage:?}");
        assert!(usage.peak_rss_kib >= usage.rss_kib && usage.rss_kib > 100, "{usage:?}");
        assert_eq!(usage.syscalls_missing.as_deref(), Some("not asked for"));
        drop(child.stdin.take());
        child.wait().expect("it ends");
        assert!(Sampler::start(u32::MAX / 4).is_err_and(|error| error.to_string().contains("process")));
    }

    #[test]
    fn status_fields_are_found_by_their_whole_name() {
        let status = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t5\nVmRSS:\t  123 kB\n";
        assert_eq!(field(status, "voluntary_ctxt_switches"), 5);
        assert_eq!(field(status, "VmRSS"), 123);
        assert_eq!(field(status, "VmHWM"), 0);
    }
}

//! Comparing a plan with the machine, making it so, and undoing it.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::driver::{DriverSetting, Drivers};
use crate::setting::chosen;
use crate::{Setting, State, Step};

/// Rounds of planning and setting: numbers of queues first, then what follows from them.
const ROUNDS_MAX: usize = 3;

/// What touches a machine: its files under a root, and its drivers.
#[derive(Clone, Copy)]
pub struct Hands<'a> {
    root: &'a Path,
    drivers: &'a dyn Drivers,
}

impl fmt::Debug for Hands<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").field("root", &self.root).finish_non_exhaustive()
    }
}

/// A step that the machine is not set as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What is wanted.
    #[serde(flatten)]
    pub step: Step,
    /// What is; `None`: it cannot be read.
    pub now: Option<Setting>,
}

/// Something that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// To what.
    pub setting: Setting,
    /// What it was before; `None`: it is no more, so there was nothing to set.
    pub was: Option<Setting>,
}

/// What could not be set, and what had been until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// What was set before.
    pub done: Vec<Done>,
    /// What could not be; `None`: it was not about a setting.
    pub setting: Option<Setting>,
    /// Why, and what to do.
    pub why: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(setting) = &self.setting {
            write!(f, "`{setting}` failed: ")?;
        }
        write!(f, "{}; {} set before it", self.why, self.done.len())
    }
}

impl std::error::Error for Failed {}

impl<'a> Hands<'a> {
    /// For the machine under `root`, whose interfaces have these drivers.
    pub fn new(root: &'a Path, drivers: &'a dyn Drivers) -> Hands<'a> {
        Hands { root, drivers }
    }

    /// Which start of the machine this is.
    pub fn boot(&self) -> String {
        let path = self.root.join("proc/sys/kernel/random/boot_id");
        fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }

    /// The present value of what `like` is a value of.
    ///
    /// # Errors
    /// `NotFound` if there is no such thing (any more), `Unsupported` if the driver does not say; or what the file
    /// system says.
    pub fn now(&self, like: &Setting) -> io::Result<Setting> {
        match like {
            Setting::File { path, .. } => {
                let text = fs::read_to_string(self.root.join(path))?;
                Ok(Setting::file(path, chosen(&text)))
            }
            Setting::Driver { nic, value } => {
                if !self.root.join("sys/class/net").join(nic).exists() {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let now = self.drivers.facts(nic).now(value).ok_or(io::ErrorKind::Unsupported)?;
                Ok(Setting::driver(nic, now))
            }
        }
    }

    /// Steps that the machine is not set as, in the order to set them.
    pub fn differences(&self, steps: &[Step]) -> Vec<Difference> {
        let mut differences: Vec<Difference> = steps
            .iter()
            .map(|step| Difference { step: step.clone(), now: self.now(&step.setting).ok() })
            .filter(|difference| {
                !difference.now.as_ref().is_some_and(|now| now.means(&difference.step.setting))
            })
            .collect();
        differences.sort_by_key(|difference| rank(&difference.step.setting, difference.now.as_ref()));
        differences
    }

    /// Sets what is not as planned, and keeps in the file what was before. `steps` plans for the machine as it then is:
    /// it is asked again after numbers of queues have changed, for interrupts come and go with them. When all is as
    /// planned nothing is written.
    ///
    /// # Errors
    /// The first thing that could not be set; what was set before it stays, and can be reverted.
    pub fn apply(
        &self,
        state_file: &Path,
        steps: &mut dyn FnMut() -> Result<Vec<Step>, String>,
    ) -> Result<Vec<Done>, Failed> {
        let mut done = Vec::new();
        let failed = |done: &Vec<Done>, setting: Option<&Setting>, why: String| Failed {
            done: done.clone(),
            setting: setting.cloned(),
            why,
        };
        let file = |error: io::Error| format!("{}: {error}", state_file.display());
        let mut state = State::load(state_file, &self.boot()).map_err(|e| failed(&done, None, file(e)))?;
        for _ in 0..ROUNDS_MAX {
            let differences = self.differences(&steps().map_err(|why| failed(&done, None, why))?);
            let moves = differences.iter().any(|difference| difference.step.setting.moves_queues());
            let now = differences.into_iter().filter(|d| !moves || d.step.setting.moves_queues());
            for Difference { step: Step { setting, .. }, now } in now {
                let was = match now {
                    Some(was) => was,
                    None => {
                        self.now(&setting).map_err(|e| failed(&done, Some(&setting), why(&setting, &e)))?
                    }
                };
                // Before the deed, so that it is known whatever happens then.
                if state.remember(&was) {
                    state.save(state_file).map_err(|e| failed(&done, None, file(e)))?;
                }
                self.set(&setting).map_err(|why| failed(&done, Some(&setting), why))?;
                done.push(Done { setting, was: Some(was) });
            }
            if !moves {
                break;
            }
        }
        Ok(done)
    }

    /// What [`revert`](Self::revert) would set, in order: values from the file that are not those of now.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn to_revert(&self, state_file: &Path) -> io::Result<Vec<Done>> {
        let state = State::load(state_file, &self.boot())?;
        let mut all: Vec<Done> = state
            .before()
            .iter()
            .rev()
            .map(|before| Done { setting: before.clone(), was: self.now(before).ok() })
            .filter(|done| !done.was.as_ref().is_some_and(|now| now.means(&done.setting)))
            .collect();
        all.sort_by_key(|done| rank(&done.setting, done.was.as_ref()));
        Ok(all)
    }

    /// Brings back what was before, and empties the file. What is no more is passed over: `was` is `None` there.
    ///
    /// # Errors
    /// The first thing that could not be brought back; it stays in the file, with what would have followed.
    pub fn revert(&self, state_file: &Path) -> Result<Vec<Done>, Failed> {
        let mut done: Vec<Done> = Vec::new();
        let file = |error: io::Error| Failed {
            done: Vec::new(),
            setting: None,
            why: format!("{}: {error}", state_file.display()),
        };
        let mut state = State::load(state_file, &self.boot()).map_err(file)?;
        // Numbers of queues first; what follows is compared only then.
        for round in [true, false] {
            let all = self.to_revert(state_file).map_err(file)?;
            for Done { setting, .. } in all.into_iter().filter(|done| done.setting.moves_queues() == round) {
                let was = self.now(&setting);
                let is_gone = was.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                if !is_gone {
                    self.set(&setting).map_err(|why| Failed {
                        done: done.clone(),
                        setting: Some(setting.clone()),
                        why,
                    })?;
                }
                state.forget(&setting);
                state.save(state_file).map_err(file)?;
                done.push(Done { setting, was: was.ok() });
            }
        }
        State::new(&self.boot()).save(state_file).map_err(file)?;
        Ok(done)
    }

    /// Sets one thing, and looks whether that took.
    fn set(&self, setting: &Setting) -> Result<(), String> {
        let set = match setting {
            Setting::File { path, text } => self.write(path, text),
            Setting::Driver { nic, value } => self.drivers.set(nic, value),
        };
        set.map_err(|error| why(setting, &error))?;
        match self.now(setting) {
            Ok(now) if now.means(setting) => Ok(()),
            Ok(now) => Err(format!("the kernel took it, but what is there now is {}", now.value())),
            Err(error) => Err(format!("it cannot be read back: {error}")),
        }
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        // Never a new file: the kernel has it or there is no such thing.
        let path: PathBuf = self.root.join(path);
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path)?;
        // One write: the kernel takes each as a value.
        file.write_all(format!("{text}\n").as_bytes())
    }
}

/// Queues that are added come before the table that names them, those that are taken away after it.
fn rank(setting: &Setting, now: Option<&Setting>) -> u8 {
    let queues = |setting: &Setting| match setting {
        Setting::Driver { value: DriverSetting::Queues(queues), .. } => Some(queues.combined + queues.rx),
        _ => None,
    };
    match (queues(setting), now.and_then(queues)) {
        (Some(to), Some(now)) if to < now => 2,
        (Some(_), _) => 0,
        (None, _) if setting.moves_queues() => 1,
        (None, _) => 3,
    }
}

/// Why something could not be set or read, and what to do.
fn why(setting: &Setting, error: &io::Error) -> String {
    let remedy = match (error.raw_os_error(), setting) {
        (Some(libc::EPERM | libc::EACCES), _) => "run it as root (CAP_NET_ADMIN, CAP_SYS_ADMIN)",
        (Some(libc::EROFS), _) => {
            "/sys and /proc/sys are read-only here: run it on the machine itself, not in a container"
        }
        (Some(libc::EIO), Setting::File { path, .. }) if path.starts_with("proc/irq/") => {
            "the kernel keeps that interrupt's CPU to itself"
        }
        (Some(libc::EINVAL), Setting::File { path, .. }) if path.starts_with("proc/irq/") => {
            "none of these CPUs is online, or their interrupt vectors are used up"
        }
        (Some(libc::EBUSY), _) => "something uses it: an AF_XDP socket on a queue, perhaps; stop that first",
        (Some(libc::EOPNOTSUPP), _) => "the driver cannot do it",
        (Some(libc::EINVAL | libc::ERANGE), Setting::Driver { .. }) => "the driver does not take that value",
        _ if error.kind() == io::ErrorKind::Unsupported => "the driver does not say",
        _ => return error.to_string(),
    };
    format!("{error}: {remedy}")
}

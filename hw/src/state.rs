//! What was before: kept in a file, so that it can be brought back.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Setting;

/// The values that things had before they were set, in the order in which they were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Which start of the machine that was in: all of it ends with that.
    boot: String,
    before: Vec<Setting>,
}

impl State {
    /// Nothing was set since that start of the machine.
    pub fn new(boot: &str) -> State {
        State { boot: boot.to_owned(), before: Vec::new() }
    }

    /// What the file says, if it is of that start of the machine; else, or without a file, nothing.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of ours.
    pub fn load(path: &Path, boot: &str) -> io::Result<State> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::new(boot)),
            Err(error) => return Err(error),
        };
        let state: State = serde_json::from_str(&text)?;
        Ok(if state.boot == boot { state } else { State::new(boot) })
    }

    /// Writes the file anew, whole; with nothing in it there is no file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if self.before.is_empty() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_string_pretty(self)?)?;
        fs::rename(new, path)
    }

    /// What is to be brought back.
    pub fn before(&self) -> &[Setting] {
        &self.before
    }

    /// Remembers a value, unless an older one of the same thing is known. Whether it was new.
    pub(crate) fn remember(&mut self, was: &Setting) -> bool {
        let is_new = !self.before.iter().any(|known| known.is_of_same(was));
        if is_new {
            self.before.push(was.clone());
        }
        is_new
    }

    pub(crate) fn forget(&mut self, setting: &Setting) {
        self.before.retain(|known| !known.is_of_same(setting));
    }
}

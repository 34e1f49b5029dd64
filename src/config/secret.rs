//! Texts kept elsewhere: `{ file = "path" }` and `{ env = "NAME" }`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A secret longer than this is a mistake: a wrong path, not a token.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// The content of a file without its last line end. A relative path starts in the folder of `beside`, the file
/// that names it.
pub(super) fn from_file(path: &str, beside: &str) -> Result<String, String> {
    let path = Path::new(beside).parent().unwrap_or(Path::new("")).join(path);
    let refuse = |why: String| format!("cannot read the file `{}`: {why}", path.display());
    // What is not a plain file may block or never end: look before opening.
    let metadata = std::fs::metadata(&path).map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refuse("it is not a plain file".to_owned()));
    }
    let file = File::open(&path).map_err(|error| refuse(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| refuse(error.to_string()))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(refuse("it is longer than 64KiB".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8 text".to_owned()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    Ok(text.to_owned())
}

/// The value of an environment variable.
pub(super) fn from_environment(name: &str) -> Result<String, String> {
    // `std::env::var_os` panics on no name, but a name like this can never be set.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("`{}` cannot be the name of an environment variable", name.escape_debug()));
    }
    match std::env::var(name) {
        Ok(text) if text.is_empty() => Err(format!("the environment variable `{name}` is empty")),
        Ok(text) => Ok(text),
        Err(std::env::VarError::NotPresent) => Err(format!("the environment variable `{name}` is not set")),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(format!("the environment variable `{name}` is not UTF-8"))
        }
    }
}

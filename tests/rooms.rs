//! The arrow test: imports go down only. Which room may name which is ARCHITECTURE.md's table, written here once
//! more so that it stays true; and pure rooms have no hands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room, and the others that it may name.
struct Room {
    name: &'static str,
    may_name: &'static [&'static str],
    /// No clock, socket, file, thread or `unsafe`.
    pure: bool,
}

const fn room(name: &'static str, may_name: &'static [&'static str], pure: bool) -> Room {
    Room { name, may_name, pure }
}

/// Rank 0: everybody may name them.
const WORDS: [&str; 4] = ["time", "limits", "handle", "network"];

const ROOMS: &[Room] = &[
    room("time", &[], true),
    room("limits", &[], true),
    room("handle", &[], true),
    room("network", &[], true),
    room("protocol", &[], true),
    room("balance", &[], true),
    room("observe", &[], true),
    room("pool", &["balance"], true),
    room("route", &[], true),
    room("spool", &["protocol"], true),
    room("dispatch", &["protocol", "balance", "observe", "pool", "route", "spool"], true),
    room("sys", &[], false),
    room("disk", &["sys"], false),
    room("net", &["sys", "disk"], false),
    room("shard", &["net", "disk", "dispatch", "spool", "observe"], false),
    // The rooms' options, and what their checks need.
    room("config", &["protocol", "balance", "pool", "route", "spool", "dispatch", "shard"], false),
    // It also puts the shards together, so it names what they are made of.
    room(
        "control",
        &[
            "config", "shard", "balance", "observe", "net", "disk", "dispatch", "protocol", "route", "spool",
            "sys",
        ],
        false,
    ),
    // The binary: everything of the library.
    room(
        "main",
        &[
            "config", "control", "shard", "net", "disk", "dispatch", "observe", "balance", "pool",
            "protocol", "spool", "sys", "commands",
        ],
        false,
    ),
    room(
        "commands",
        &[
            "config", "control", "shard", "net", "disk", "dispatch", "observe", "balance", "pool",
            "protocol", "spool", "sys", "main",
        ],
        false,
    ),
];

/// What a pure room may not have, and must get as an argument or leave to the hands.
const HANDS: &[&str] = &[
    "unsafe",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::fs",
    "std::io::stdin",
    "std::io::stdout",
    "std::thread",
    "std::env",
    "std::process",
    "std::time::SystemTime",
    "std::time::Instant",
    "libc",
    "io_uring",
];

#[test]
fn imports_go_down_only() {
    let mut faults = Vec::new();
    for (room, file) in sources() {
        let text = fs::read_to_string(&file).expect("a source file is readable");
        let depth = depth_of(&file);
        for (line, name) in rooms_named(&code_of(&text), depth) {
            let allowed = name == room.name || WORDS.contains(&&*name) && !WORDS.contains(&room.name);
            if !allowed && !room.may_name.contains(&&*name) {
                faults.push(format!("{}:{line}: `{}` may not name `{name}`", file.display(), room.name));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn pure_rooms_have_no_hands() {
    let mut faults = Vec::new();
    for (room, file) in sources().into_iter().filter(|(room, _)| room.pure) {
        let text = fs::read_to_string(&file).expect("a source file is readable");
        for (line, path) in std_paths(&code_of(&text)) {
            if HANDS.iter().any(|hand| path.starts_with(hand)) {
                faults.push(format!("{}:{line}: `{}` is pure; `{path}`", file.display(), room.name));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_room_is_in_the_table_and_every_one_in_the_table_exists() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let there: BTreeSet<String> = fs::read_dir(src)
        .expect("src is there")
        .map(|entry| entry.expect("src can be read").path())
        .map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .filter(|name| name != "lib")
        .collect();
    let table: BTreeSet<String> = ROOMS.iter().map(|room| room.name.to_owned()).collect();
    assert_eq!(there, table);
}

/// The reader itself: it has to see what it is there for.
#[test]
fn arrows_are_seen() {
    let named = |text: &str, depth| -> Vec<String> {
        rooms_named(&code_of(text), depth).into_iter().map(|(line, name)| format!("{line} {name}")).collect()
    };
    assert_eq!(named("use crate::pool::Links;\n", 1), ["1 pool"]);
    assert_eq!(named("\nfn f() { crate::net::x() }", 1), ["2 net"]);
    assert_eq!(named("use crate::{\n  shard::{a, b},\n  time,\n};", 1), ["2 shard", "3 time"]);
    assert_eq!(named("use postlane::config;", 1), ["1 config"]);
    assert_eq!(named("// crate::net\nlet a = \"crate::net\"; /* crate::net */", 1), [""; 0]);
    assert_eq!(named("use super::net;", 1), ["1 net"]);
    assert_eq!(named("use super::net; use super::super::sys;", 2), ["1 sys"]);
    let paths =
        |text: &str| -> Vec<String> { std_paths(&code_of(text)).into_iter().map(|(_, path)| path).collect() };
    assert_eq!(
        paths("use std::{fs, time::{Duration, Instant}};"),
        ["std::fs", "std::time::Duration", "std::time::Instant"]
    );
    assert_eq!(paths("unsafe { std::net::TcpStream::x }"), ["unsafe", "std::net::TcpStream::x"]);
}

/// Every source file with its room; the binary's and the library's roots are no room's.
fn sources() -> Vec<(&'static Room, PathBuf)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    let mut found = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).expect("it lies in src");
        let first = relative.iter().next().map(Path::new).unwrap_or(relative);
        let name = first.file_stem().unwrap_or_default().to_string_lossy();
        if let Some(room) = ROOMS.iter().find(|room| room.name == name) {
            found.push((room, file));
        }
    }
    assert!(found.len() > 30, "hardly any sources: {}", found.len());
    found
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder is readable") {
        let path = entry.expect("a source folder is readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// How many `super::` lead from the file's module to the crate's root.
fn depth_of(file: &Path) -> usize {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let relative = file.strip_prefix(src).expect("it lies in src");
    let is_mod = file.file_name().is_some_and(|name| name == "mod.rs");
    relative.iter().count() - usize::from(is_mod)
}

/// The text with comments and the insides of literals blanked out, its lines kept.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if rest.starts_with('"') {
            string_len(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else {
            0
        };
        if skipped == 0 {
            let c = rest.chars().next().expect("not at the end");
            code.push(c);
            at += c.len_utf8();
        } else {
            code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            at += skipped;
        }
    }
    code
}

/// A string literal's length, quotes included.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The rooms that paths from the crate's root name, each with its line.
fn rooms_named(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    let above = "super::".repeat(depth);
    for root in ["crate::", "postlane::", above.as_str()] {
        for at in starts(code, root) {
            // More `super`s than `root` has lead nowhere, or are an inner module's.
            if root == above && code[..at].ends_with("super::") {
                continue;
            }
            for (place, path) in leaves(code, at + root.len()) {
                let name = path.split("::").next().unwrap_or("").to_owned();
                let is_room = ROOMS.iter().any(|room| room.name == name);
                if is_room
                    || root != above && name.starts_with(|c: char| c.is_ascii_lowercase()) && name != "self"
                {
                    named.push((line_of(code, place), name));
                }
            }
        }
    }
    named.sort();
    named.dedup();
    named
}

/// Paths into `std` and other crates that matter, `unsafe` among them, each with its line.
fn std_paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for word in ["unsafe", "libc", "io_uring"] {
        paths.extend(starts(code, word).map(|at| (line_of(code, at), word.to_owned())));
    }
    for at in starts(code, "std::") {
        let found = leaves(code, at + "std::".len());
        paths.extend(found.into_iter().map(|(place, path)| (line_of(code, place), format!("std::{path}"))));
    }
    paths
}

/// Where `word` begins as a word of its own.
fn starts<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !inside(before) && (word.ends_with(':') || !inside(after))
    })
}

/// The paths at `at`: one, or those of a group in braces, each with its place.
fn leaves(code: &str, at: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    read_tree(code, at, "", &mut found);
    found
}

/// Reads a path or a group; returns where it ends.
fn read_tree(code: &str, mut at: usize, prefix: &str, found: &mut Vec<(usize, String)>) -> usize {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '*';
    let begun = at;
    let mut path = prefix.to_owned();
    loop {
        if code[at..].starts_with('{') {
            at += 1;
            loop {
                at += code[at..].len() - code[at..].trim_start_matches([' ', '\n', ',']).len();
                if at >= code.len() || code[at..].starts_with('}') {
                    return (at + 1).min(code.len());
                }
                let next = read_tree(code, at, &path, found);
                // `as name` and the like.
                let rest = &code[next..];
                at = next + rest.find([',', '}']).unwrap_or(rest.len());
                if next == at && rest.is_empty() {
                    return at;
                }
            }
        }
        let rest = &code[at..];
        let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        path.push_str(&rest[..len]);
        at += len;
        if len == 0 || !code[at..].starts_with("::") {
            found.push((begun, path));
            return at;
        }
        path.push_str("::");
        at += 2;
    }
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

//! The house: a room imports only from lower floors, and `unsafe` stays in its rooms.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms by floor, lowest first. Rooms of one floor do not know each other.
const FLOORS: [&[&str]; 9] = [
    &["sync", "error"],
    &["test_env"],
    &["time"],
    &["watchdog"],
    &["thread", "pool"],
    &["token"],
    &["scope"],
    &["future", "quota", "interrupt", "abandon", "isolate", "report"],
    &["tower", "testing", "recipes"],
];

/// Where `unsafe` may stand: files, and folders with all that is in them. A recipe is a user's code.
const UNSAFE: [&str; 8] = [
    "sync/",
    "thread/local.rs",
    "watchdog/timers.rs",
    "watchdog/timers/",
    "scope/frame.rs",
    "interrupt/regex/pcre2.rs",
    "report/stack/",
    "recipes/mysql.rs",
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Every file of `src` with its path inside it, `lib.rs` excepted.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    let relative = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
    let named = files.iter().map(|path| (relative(path), fs::read_to_string(path).unwrap()));
    named.filter(|(name, _)| name != "lib.rs").collect()
}

/// The room a file belongs to: its folder in `src`, or its own name.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The code of a file: no comments, no string literals, and nothing from its test module on.
fn code(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let start = line.trim_start();
        if start.starts_with("#[cfg(test)]") || start.starts_with("#[cfg(all(test") {
            break;
        }
        let mut in_string = false;
        let mut previous = ' ';
        for (at, character) in line.char_indices() {
            if character == '"' && previous != '\\' && previous != '\'' {
                in_string = !in_string;
            } else if !in_string && line[at..].starts_with("//") {
                break;
            } else if !in_string {
                code.push(character);
            }
            previous = character;
        }
        code.push('\n');
    }
    code
}

/// The rooms that follow `crate::` anywhere in the code, those in braces too.
fn imports(code: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|&character| character.is_alphanumeric() || character == '_')
            .collect()
    };
    let mut rooms = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            rooms.insert(name(rest));
            continue;
        };
        let mut depth = 1;
        let mut expects_name = true;
        for (at, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expects_name = true,
                _ if expects_name && !character.is_whitespace() => {
                    rooms.insert(name(&list[at..]));
                    expects_name = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    rooms
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn a_room_imports_only_from_lower_floors() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        let from = room(&file);
        let Some(own) = floor(from) else {
            faults.push(format!("{file}: the room `{from}` has no floor"));
            continue;
        };
        for to in imports(&code(&text)) {
            match floor(&to) {
                _ if to == from => {}
                Some(other) if other < own => {}
                Some(other) => faults.push(format!("{file}: floor {own} imports `{to}` of floor {other}")),
                // Macros of the crate's root and the like would hide an edge.
                None => faults.push(format!("{file}: imports `{to}`, which is no room")),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn unsafe_stays_in_its_rooms() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        let allowed =
            UNSAFE.iter().any(|place| file == *place || (place.ends_with('/') && file.starts_with(place)));
        let code = code(&text);
        let mut words = code.split(|character: char| !character.is_alphanumeric() && character != '_');
        if !allowed && words.any(|word| word == "unsafe") {
            faults.push(file);
        }
    }
    assert!(faults.is_empty(), "unsafe in {faults:?}");
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn the_front_page_has_no_logic() {
    let front = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let code = code(&front);
    assert!(!code.contains("fn ") && !code.contains("unsafe "), "lib.rs is the list of rooms");
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn the_reader_of_imports_sees_them_all() {
    let text = "use crate::sync::{Mutex, atomic};\nuse crate::{time::Clock, token::{self, node}, scope};\n\
                fn f() { crate::quota::g(\"crate::tower\"); } // crate::testing\n#[cfg(test)]\nmod tests { crate::report }\n";
    let seen: Vec<String> = imports(&code(text)).into_iter().collect();
    assert_eq!(seen, ["quota", "scope", "sync", "time", "token"]);
}

//! The house: a room imports only from lower floors, and `unsafe` stays in its rooms.

use std::collections::{BTreeMap, BTreeSet};
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
    &["testing", "tokio", "guide", "recipes", "__private"],
];

/// Where `unsafe` may stand: files, and folders with all that is in them. A recipe is a user's code.
const UNSAFE: [&str; 8] = [
    "sync/",
    "thread/local.rs",
    "watchdog/timers.rs",
    "watchdog/timers/",
    "scope/frame.rs",
    "interrupt/regex/pcre2.rs",
    "recipes/mysql.rs",
    "report/stack/",
];

/// Where std's atomics or `OnceLock` stand outside of `sync/`, and why.
const OF_STD: [(&str, &str); 6] = [
    (
        "error/scope.rs",
        "a static counter, of which only uniqueness is asked: loom has no atomics in a `static`",
    ),
    ("pool.rs", "static bounds, which no model changes: as above"),
    ("scope/config.rs", "of one builder: nobody waits for another thread"),
    ("watchdog/model.rs", "what a model counts is not part of it"),
    ("watchdog/timers.rs", "a flag that only the watchdog uses, which no model need explore"),
    (
        "watchdog/timers/records.rs",
        "a pointer that only its owner uses; loom has no `AtomicPtr` to a `static`",
    ),
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Every file of `src` with its path inside it, without `lib.rs` and files of tests.
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
    let is_test = |name: &str| name.ends_with("tests.rs") || name.contains("/tests/");
    named.filter(|(name, _)| name != "lib.rs" && !is_test(name)).collect()
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

/// A module: the names on the way to it from the root of the crate.
type Module = Vec<String>;

/// The module that a file is.
fn module(file: &str) -> Module {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

fn words(path: &str) -> impl Iterator<Item = &str> {
    path.split("::").map(str::trim).filter(|word| !word.is_empty())
}

/// The paths of a `use`: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn leaves(tree: &str) -> Vec<String> {
    let Some((stem, list)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let list = list.trim_end().strip_suffix('}').unwrap_or(list);
    let mut depth = 0;
    let split = list.split(|character| {
        depth += i32::from(character == '{') - i32::from(character == '}');
        character == ',' && depth == 0
    });
    split.flat_map(leaves).map(|leaf| format!("{stem}{}", leaf.trim())).collect()
}

/// The modules that the code of a module names, by `super`, `self`, `crate`, or from itself in a `use`. Also those of
/// modules that stand in braces within it.
fn named(own: &Module, code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    let mut within: Vec<(i32, String)> = Vec::new();
    let mut depth = 0;
    let is_of_path = |character: char| character.is_alphanumeric() || "_:".contains(character);
    let mut rest = code;
    while let Some(character) = rest.chars().next() {
        if !is_of_path(character) {
            depth += i32::from(character == '{') - i32::from(character == '}');
            if character == '}' {
                within.retain(|(at, _)| depth >= *at);
            }
            rest = &rest[character.len_utf8()..];
            continue;
        }
        let end = rest.find(|character| !is_of_path(character)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if word == "mod"
            && let Some((name, _)) = rest.split_once('{')
            && !name.contains(';')
        {
            within.push((depth + 1, name.trim().to_owned()));
        }
        let here: Module = own.iter().chain(within.iter().map(|(_, name)| name)).cloned().collect();
        let paths = if word == "use" {
            let (tree, after) = rest.split_once(';').unwrap_or((rest, ""));
            rest = after;
            leaves(tree)
        } else if word == "in" || !word.contains("::") {
            // `pub(super)`, `pub(in crate::room)`.
            rest = rest.trim_start_matches(|character| word == "in" && character != ')');
            continue;
        } else {
            vec![word.to_owned()]
        };
        for path in paths {
            let mut words = words(&path).peekable();
            let mut base = here.clone();
            match words.peek() {
                Some(&"crate") => base.clear(),
                Some(&("super" | "self")) => {}
                _ if word == "use" => {}
                _ => continue,
            }
            for word in words {
                match word {
                    "crate" | "self" => {}
                    "super" => drop(base.pop()),
                    _ => base.extend(word.split_whitespace().next().map(str::to_owned)),
                }
            }
            found.push(base);
        }
    }
    found
}

/// The files that each file imports from, of its own room. A re-export of a parent counts as the parent.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources();
    let files: BTreeMap<Module, &str> = sources.iter().map(|(file, _)| (module(file), &**file)).collect();
    let file_of = |path: &Module| (1..=path.len()).rev().find_map(|length| files.get(&path[..length]));
    let edges = sources.iter().map(|(file, text)| {
        let named = named(&module(file), &code(text));
        let to = named.iter().filter_map(file_of).filter(|to| room(to) == room(file) && *to != file);
        (file.clone(), to.map(|&to| to.to_owned()).collect())
    });
    edges.collect()
}

/// The files that can be reached from one by imports.
fn reached(from: &str, edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(file) = next.pop() {
        for to in &edges[file] {
            if reached.insert(to.clone()) {
                next.push(to);
            }
        }
    }
    reached
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn the_files_of_a_room_import_in_no_circle() {
    let edges = edges();
    let circular: Vec<&str> =
        edges.keys().filter(|file| reached(file, &edges).contains(*file)).map(String::as_str).collect();
    let of = |file: &str| -> Vec<_> {
        edges[file].iter().filter(|to| reached(to, &edges).contains(file)).cloned().collect()
    };
    let faults: Vec<_> = circular.iter().map(|file| format!("{file}: {:?}", of(file))).collect();
    assert!(faults.is_empty(), "files in a circle, and what they import in it:\n{}", faults.join("\n"));
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn atomics_and_cells_that_are_set_once_come_from_sync() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        let code = code(&text);
        let is_allowed =
            matches!(room(&file), "sync" | "recipes") || OF_STD.iter().any(|(name, _)| *name == file);
        if !is_allowed && (code.contains("std::sync::atomic") || code.contains("OnceLock")) {
            faults.push(file);
        }
    }
    assert!(faults.is_empty(), "std's atomics or `OnceLock` in {faults:?}");
}

#[test]
fn the_reader_of_paths_sees_them_all() {
    let own = module("token/node/tree.rs");
    let text = "use super::{ending::{a, b as c}, Node};\nuse std::sync::Arc;\nuse entry::E;\n\
                mod on { use super::f; fn g() { super::super::state::h() } }\nfn i() { self::j::k(); super::l() }";
    let seen: Vec<String> = named(&own, text).iter().map(|path| path.join("::")).collect();
    let expected = [
        "token::node::ending::a",
        "token::node::ending::b",
        "token::node::Node",
        "token::node::tree::std::sync::Arc",
        "token::node::tree::entry::E",
        "token::node::tree::f",
        "token::node::state::h",
        "token::node::tree::j::k",
        "token::node::l",
    ];
    assert_eq!(seen, expected);
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

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn a_file_has_at_most_500_lines() {
    let long: Vec<_> =
        sources().into_iter().filter(|(_, text)| text.lines().count() > 500).map(|(file, _)| file).collect();
    assert!(long.is_empty(), "too long: {long:?}");
}

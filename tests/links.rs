//! The links of README.md and of the other pages lead somewhere, also in the package that is published.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where this crate's documentation will be.
const DOCS: &str = "https://docs.rs/timebox/latest/timebox/";

const PAGES: [&str; 5] = ["README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "benches/README.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text outside of code blocks: of Markdown, or of the documentation in a Rust file.
fn prose(path: &str) -> String {
    let is_rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut in_code = false;
    let mut prose = String::new();
    for line in text.lines() {
        let line = match line.trim_start().split_at_checked(3) {
            Some(("//!" | "///", rest)) => rest.strip_prefix(' ').unwrap_or(rest),
            _ if is_rust => continue,
            _ => line,
        };
        if line.starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// The targets of `[text](target)` and `[label]: target`.
fn targets(path: &str) -> Vec<String> {
    let prose = prose(path);
    let inline = prose.split("](").skip(1).filter_map(|rest| {
        let mut depth = 0;
        let end = rest.find(|char| {
            depth += i32::from(char == '(') - i32::from(char == ')');
            depth < 0
        });
        end.map(|end| &rest[..end])
    });
    let defined = prose.lines().filter_map(|line| Some(line.strip_prefix('[')?.split_once("]: ")?.1));
    inline.chain(defined).map(str::to_owned).collect()
}

/// Whether a page has a heading with this anchor, as rustdoc and GitHub make them.
fn has_heading(path: &str, anchor: &str) -> bool {
    prose(path).lines().filter(|line| line.starts_with('#')).any(|heading| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept: String =
            heading.chars().filter(|&char| char.is_alphanumeric() || " -_".contains(char)).collect();
        kept.replace(' ', "-") == anchor
    })
}

/// The file with the documentation of a module: of `guide/errors`, or of the crate where it is empty.
fn documentation(module: &str) -> Option<String> {
    if module.is_empty() {
        return Some("src/lib.rs".to_owned());
    }
    let places = ["src", "src/interrupt"].into_iter();
    let files =
        places.flat_map(|place| [".md", "/mod.rs", ".rs"].map(|ending| format!("{place}/{module}{ending}")));
    files.into_iter().find(|file| root().join(file).is_file())
}

/// Why a link of a page outside of `src` leads nowhere.
fn broken(page: &str, target: &str, packaged: &BTreeSet<String>) -> Option<String> {
    let (place, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if let Some(module) = place.strip_prefix(DOCS) {
        match documentation(module.trim_end_matches('/')) {
            Some(file) => file,
            None => return Some(format!("{page}: the documentation has no module {module}")),
        }
    } else if place.contains("://") {
        return None; // without a network nobody can say
    } else if place.is_empty() {
        page.to_owned()
    } else {
        root()
            .join(page)
            .with_file_name(place)
            .strip_prefix(root())
            .expect("below")
            .to_string_lossy()
            .into_owned()
    };
    if !packaged.contains(&file) {
        Some(format!("{page}: {file} is not in the package"))
    } else if !anchor.is_empty() && !has_heading(&file, anchor) {
        Some(format!("{page}: {file} has no heading {anchor}"))
    } else {
        None
    }
}

#[test]
fn links_of_the_package_lead_to_its_files_and_pages() {
    let list = Command::new(env!("CARGO"))
        .args(["package", "--package", "timebox", "--list", "--allow-dirty", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo is there");
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    let packaged: BTreeSet<String> =
        String::from_utf8_lossy(&list.stdout).lines().map(str::to_owned).collect();

    let links: Vec<_> =
        PAGES.iter().flat_map(|page| targets(page).into_iter().map(move |to| (page, to))).collect();
    assert!(links.len() > 20, "found {} links", links.len());
    let broken: Vec<_> = links.iter().filter_map(|(page, target)| broken(page, target, &packaged)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// All files below a folder, by their paths from the root.
fn files(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).expect("the folder is there");
    let paths =
        entries.map(|entry| format!("{folder}/{}", entry.expect("an entry").file_name().to_string_lossy()));
    paths.flat_map(|path| if root().join(&path).is_dir() { files(&path) } else { vec![path] }).collect()
}

/// rustdoc checks that a linked item exists, and not that it has the heading.
#[test]
fn links_to_headings_of_the_documentation_lead_to_them() {
    let mut checked = 0;
    let mut broken = Vec::new();
    for page in files("src") {
        // The pages of Markdown, which are modules, also link to themselves and to their neighbours.
        let module = page.strip_prefix("src/").and_then(|page| page.strip_suffix(".md"));
        for target in targets(&page) {
            let Some((item, anchor)) = target.split_once('#').filter(|(item, _)| !item.contains("://"))
            else {
                continue;
            };
            let file = match (item.split_once("crate"), module.and_then(|module| module.rsplit_once('/'))) {
                (Some(("", item)), _) => documentation(&item.trim_start_matches("::").replace("::", "/")),
                (None, Some(_)) if item.is_empty() => Some(page.clone()),
                (None, Some((folder, _))) => documentation(&format!("{folder}/{item}")),
                _ => continue,
            };
            checked += 1;
            if !file.is_some_and(|file| has_heading(&file, anchor)) {
                broken.push(format!("{page}: {target}"));
            }
        }
    }
    assert!(checked > 10, "checked {checked} links");
    assert!(broken.is_empty(), "{broken:#?}");
}

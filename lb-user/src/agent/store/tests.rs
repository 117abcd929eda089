use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    process::Command,
};

use serde_json::json;

use super::*;
use crate::core::{
    edit::Denial,
    replica::{Content, Revision},
};

fn kept(prefixes: u8) -> Kept {
    let mut edits = Edits::default();
    for number in 0..prefixes {
        let prefix = format!("10.{number}.0.0/16").parse().expect("a prefix");
        edits.firewall.deny.insert(prefix, Denial { deny: true, until: None });
    }
    let withdrawn = Withdrawn { text: "[node]\n# \"new\"".into(), instead: "[node]".into() };
    Kept { edits, withdrawn: (prefixes > 1).then_some(withdrawn), shared: None }
}

/// What is on disk of it.
fn on_disk(kept: Kept) -> Vec<u8> {
    let kept = kept.try_map(|base| Ok::<_, StoreError>(base.digest())).expect("digests");
    serde_json::to_vec(&Document { version: VERSION, kept }).expect("JSON")
}

fn base(name: &str) -> Arc<Base> {
    let service = json!({ "name": name });
    Arc::new(Base::new(vec![service.as_object().expect("keys").clone()], Default::default()))
}

/// With a file that is shared, and another one that was before.
fn shared(now: &str, before: &str) -> Kept {
    let content = |name| {
        let edits = kept(1).edits;
        Content { base: base(name), edits, conflicts: Vec::new() }
    };
    let mut ledger = Ledger::new(content(now), base(now).digest(), 7);
    let version = ledger.current.version;
    ledger.common = Some(Revision { version, content: content(before) });
    Kept { shared: Some(ledger), ..kept(1) }
}

/// What the file is written as first.
const NEW: &str = "edits.json.new";

fn directory() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a directory");
    let path = parent.path().join("lb/state");
    (parent, path)
}

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name of ours"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn edits_are_there_for_the_next_agent() {
    let (_parent, path) = directory();
    let (mut store, found) = Store::open(&path).expect("a new directory");
    assert_eq!(found, Kept::default());
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for number in [1, 3, 2] {
        store.save(&kept(number)).expect("room");
    }
    assert_eq!(names(&path), ["edits.json", "lock"]);
    assert_eq!(mode(&path.join(FILE)), 0o600);
    drop(store);
    assert_eq!(Store::open(&path).expect("a directory of ours").1, kept(2));
}

#[test]
fn shared_parts_of_files_are_there_while_something_names_them() {
    let (_parent, path) = directory();
    let (mut store, _) = Store::open(&path).expect("a new directory");
    let name = |name: &str| base_name(base(name).digest());
    let files = |bases: &[&str]| {
        let mut files: Vec<_> = bases.iter().map(|base| name(base)).collect();
        files.extend(["edits.json".to_owned(), "lock".to_owned()]);
        files.sort();
        files
    };
    for (now, before) in [("a", "a"), ("b", "a"), ("c", "b"), ("a", "c")] {
        store.save(&shared(now, before)).expect("room");
        let named = if now == before { vec![now] } else { vec![now, before] };
        assert_eq!(names(&path), files(&named));
    }
    drop(store);
    // Left behind by who was killed.
    fs::write(path.join(name("b")), "{").expect("room");
    let (mut store, found) = Store::open(&path).expect("a directory of ours");
    assert_eq!((found, names(&path)), (shared("a", "c"), files(&["a", "c"])));
    store.save(&kept(1)).expect("room");
    assert_eq!(names(&path), files(&[]));
}

#[test]
fn a_shared_part_that_is_damaged_is_named() {
    let (_parent, path) = directory();
    let (mut store, _) = Store::open(&path).expect("a new directory");
    store.save(&shared("a", "a")).expect("room");
    drop(store);
    let file = path.join(base_name(base("a").digest()));
    let other = serde_json::to_vec(&*base("b")).expect("JSON");
    for (text, expected) in [(&b"{"[..], "EOF"), (&other[..], "its digest is ")] {
        fs::write(&file, text).expect("room");
        let error = Store::open(&path).expect_err("damaged").to_string();
        let shown = file.display();
        assert!(
            error.starts_with(&format!("`{shown}` cannot be understood: {expected}")),
            "{error}"
        );
    }
}

#[test]
fn two_agents_do_not_share_a_directory() {
    let (_parent, path) = directory();
    let first = Store::open(&path).expect("a new directory");
    let error = Store::open(&path).expect_err("locked");
    let shown = path.display();
    assert_eq!(
        error.to_string(),
        format!("`{shown}` is in use by another agent: `{shown}/lock` is locked")
    );
    drop(first);
    Store::open(&path).expect("unlocked");
}

/// What a kill leaves behind, step by step: nothing, a part of the new file,
/// the whole of it, or the new file in its place.
#[test]
fn kill_between_any_two_steps_leaves_the_old_edits_or_the_new() {
    let (_parent, path) = directory();
    let new = on_disk(kept(2));
    let leftovers = [None, Some(&new[..0]), Some(&new[..new.len() / 2]), Some(&new[..])];
    for leftover in leftovers {
        let (mut store, _) = Store::open(&path).expect("a directory");
        store.save(&kept(1)).expect("room");
        drop(store);
        if let Some(leftover) = leftover {
            fs::write(path.join(NEW), leftover).expect("room");
        }
        let (store, found) = Store::open(&path).expect("a directory of ours");
        assert_eq!(found, kept(1));
        assert_eq!(names(&path), ["edits.json", "lock"]);
        drop(store);
    }
    fs::write(path.join(NEW), &new).expect("room");
    fs::rename(path.join(NEW), path.join(FILE)).expect("the last step");
    assert_eq!(Store::open(&path).expect("a directory of ours").1, kept(2));
}

#[test]
fn file_that_is_not_understood_is_left_as_it_is() {
    let (_parent, path) = directory();
    drop(Store::open(&path).expect("a new directory"));
    let file = path.join(FILE);
    let shown = file.display();
    let cases = [
        ("", "cannot be understood: EOF while parsing a value at line 1 column 0"),
        ("{\"version\": 1, \"edits\": {\"x\": 1}}", "cannot be understood: unknown field `x`"),
        ("{\"version\": 1}", "cannot be understood: missing field `edits`"),
        ("{\"version\": 2, \"other\": 1}", "has version 2, expected 1"),
    ];
    for (text, expected) in cases {
        fs::write(&file, text).expect("room");
        let error = Store::open(&path).expect_err("not understood");
        assert!(error.to_string().starts_with(&format!("`{shown}` {expected}")), "{error}");
        assert!(error.hint().expect("a hint").contains(&format!("move `{shown}` away")));
        assert_eq!(fs::read_to_string(&file).expect("the file"), text);
    }
}

#[test]
fn directory_that_cannot_be_is_named() {
    let (parent, _) = directory();
    let file = parent.path().join("file");
    fs::write(&file, "").expect("room");
    let error = Store::open(&file.join("state")).expect_err("no directory");
    let shown = file.display();
    assert_eq!(
        error.to_string(),
        format!("`{shown}/state` cannot be created: Not a directory (os error 20)")
    );
}

/// Writes to `/dev/full` fail as those to a full disk do.
#[test]
fn full_disk_leaves_the_old_edits_and_nothing_else() {
    let (_parent, path) = directory();
    let (mut store, _) = Store::open(&path).expect("a new directory");
    store.save(&kept(1)).expect("room");
    symlink("/dev/full", path.join(NEW)).expect("room");
    let error = store.save(&kept(200)).expect_err("no room");
    let temporary = path.join(NEW);
    assert_eq!(
        error.to_string(),
        format!(
            "`{}` cannot be written: No space left on device (os error 28)",
            temporary.display()
        )
    );
    assert_eq!(error.hint().as_deref(), Some("make room there: nothing was changed"));
    assert_eq!(names(&path), ["edits.json", "lock"]);
    store.save(&kept(2)).expect("room again");
    drop(store);
    assert_eq!(Store::open(&path).expect("a directory of ours").1, kept(2));
}

/// A child whose files are limited to 4 KiB writes a part of the new file.
#[test]
fn write_that_ends_half_way_leaves_the_old_edits_and_nothing_else() {
    const DIRECTORY: &str = "LB_TEST_STATE_DIR";
    const NAME: &str =
        "agent::store::tests::write_that_ends_half_way_leaves_the_old_edits_and_nothing_else";
    if let Some(path) = std::env::var_os(DIRECTORY) {
        let (mut store, found) = Store::open(Path::new(&path)).expect("a directory of ours");
        assert_eq!(found, kept(1));
        let error = store.save(&kept(200)).expect_err("too large");
        assert!(error.to_string().ends_with("File too large (os error 27)"), "{error}");
        return;
    }
    let (_parent, path) = directory();
    let (mut store, _) = Store::open(&path).expect("a new directory");
    store.save(&kept(1)).expect("room");
    drop(store);
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact --quiet \"$1\""])
        .arg(std::env::current_exe().expect("this test"))
        .arg(NAME)
        .env(DIRECTORY, &path)
        .output()
        .expect("a shell");
    assert!(limited.status.success(), "{}", String::from_utf8_lossy(&limited.stdout));
    assert_eq!(names(&path), ["edits.json", "lock"]);
    assert_eq!(Store::open(&path).expect("a directory of ours").1, kept(1));
}

/// A directory in the place of the file refuses even root.
#[test]
fn file_that_cannot_be_replaced_is_named() {
    let (_parent, path) = directory();
    let (mut store, _) = Store::open(&path).expect("a new directory");
    fs::create_dir(path.join(FILE)).expect("room");
    let error = store.save(&kept(1)).expect_err("in the way");
    assert!(
        error
            .to_string()
            .starts_with(&format!("`{}` cannot be replaced: ", path.join(FILE).display()))
    );
    assert_eq!(names(&path), ["edits.json", "lock"]);
}

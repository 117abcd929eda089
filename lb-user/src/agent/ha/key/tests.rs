//! Keys, and their files.

use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{
    file::{KeyError, create, is_exposed, retire, rotate},
    *,
};

const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// What reading a file with this content says.
fn reading(text: &str, mode: u32) -> Result<Keys, KeyError> {
    let directory = directory();
    let path = directory.path().join("pair.key");
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
    Keys::read(&path)
}

/// What a key makes of a text: keys themselves are not shown.
fn tag(key: &hmac::Key) -> Vec<u8> {
    hmac::sign(key, b"text").as_ref().to_vec()
}

#[test]
fn a_key_that_is_made_can_be_read_and_is_nobody_elses() {
    let directory = directory();
    let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
    for path in [&first, &second] {
        create(path).expect("a key");
        let mode = fs::metadata(path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
    let [first, second] = [first, second].map(|path| Keys::read(&path).expect("a key"));
    assert_ne!(first.newest().fingerprint(), second.newest().fingerprint());
}

#[test]
fn a_key_is_never_written_over() {
    let directory = directory();
    let path = directory.path().join("pair.key");
    fs::write(&path, "mine").expect("a file");
    let error = create(&path).expect_err("there is one");
    assert!(error.to_string().contains("cannot be written: File exists"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("remove it first")));
    assert_eq!(fs::read(&path).expect("the file"), b"mine");
}

#[test]
fn a_key_is_64_digits_in_one_line() {
    for text in [DIGITS.to_owned(), format!("{DIGITS}\n"), DIGITS.to_lowercase() + "\r\n"] {
        let key = reading(&text, 0o600).expect("a key").newest().derive("use", "edge");
        let bytes: [u8; LENGTH] = std::array::from_fn(|index| index as u8);
        assert_eq!(tag(&key), tag(&Key::from(bytes).derive("use", "edge")));
    }
    let short = &DIGITS[2..];
    let wrong = [
        String::new(),
        format!("place {DIGITS}"),
        format!("{DIGITS}\nplace {short}"),
        format!("{DIGITS}\nplace{DIGITS}"),
        format!("{DIGITS}\nplace {DIGITS}\n{DIGITS}"),
        format!("{DIGITS}\n\n{DIGITS}"),
        short.to_owned(),
        format!("{DIGITS}00"),
        format!("{short}0"),
        format!("{short}+1"),
        format!("{short}é"),
        format!(" {DIGITS}"),
        format!("{DIGITS}\n").repeat(3),
        DIGITS.repeat(1000),
    ];
    for text in wrong {
        let error = reading(&text, 0o600).expect_err("no key");
        assert!(matches!(error, KeyError::Malformed { .. }), "{text}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("lb ha keygen")));
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    for mode in [0o604, 0o640, 0o644, 0o660, 0o620, 0o601] {
        let error = reading(DIGITS, mode).expect_err("exposed");
        assert!(error.to_string().contains(&format!("has mode {mode:04o}")), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("chmod 600")));
    }
    for mode in [0o400, 0o600, 0o700] {
        reading(DIGITS, mode).expect("a key");
    }
    assert!(!is_exposed(0o600, 0, 1000) && !is_exposed(0o600, 1000, 1000));
    assert!(is_exposed(0o600, 1001, 1000) && is_exposed(0o600, 1000, 0));
}

#[test]
fn what_is_no_file_is_refused() {
    let directory = directory();
    // Who opens a pipe that nobody writes to waits, unless told not to.
    let (pipe, _) = io::pipe().expect("a pipe");
    let pipe = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    for path in [Path::new(&pipe), directory.path(), Path::new("/dev/zero")] {
        let error = Keys::read(path).expect_err("no file");
        assert!(matches!(error, KeyError::Irregular { .. }), "{error}");
    }
    let error = Keys::read(&directory.path().join("none")).expect_err("no file");
    assert!(error.to_string().contains("cannot be read: No such file"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("lb ha keygen")));
}

#[test]
fn every_use_and_pair_has_its_own_key() {
    let key = Key::from([7; LENGTH]);
    let others = [("use", "edge2"), ("use2", "edge"), ("us", "eedge"), ("", "use edge")];
    for (purpose, pair) in others {
        assert_ne!(tag(&key.derive("use", "edge")), tag(&key.derive(purpose, pair)));
    }
    assert_eq!(tag(&key.derive("use", "edge")), tag(&key.clone().derive("use", "edge")));
    assert!(!format!("{key:?}").contains("7, 7"), "{key:?}");
}

#[test]
fn the_nodes_of_a_pair_place_flows_alike_and_others_do_not() {
    let seed = |secret, pair| Keys::from(Key::from([secret; LENGTH])).place_seed(pair);
    assert_eq!(seed(7, "edge"), seed(7, "edge"));
    assert!(![seed(7, "edge2"), seed(8, "edge")].contains(&seed(7, "edge")));
}

/// A new file with a key.
fn key_file() -> (TempDir, PathBuf) {
    let directory = directory();
    let path = directory.path().join("pair.key");
    create(&path).expect("a key");
    (directory, path)
}

fn read(path: &Path) -> Keys {
    Keys::read(path).expect("keys")
}

/// The fingerprints of the keys in a file.
fn fingerprints(path: &Path) -> Vec<Fingerprint> {
    read(path).iter().map(Key::fingerprint).collect()
}

#[test]
fn a_new_key_comes_before_the_old_which_goes_later() {
    let (directory, path) = key_file();
    let before = fingerprints(&path);
    let [new, old] = rotate(&path).expect("a second key");
    assert_eq!((fingerprints(&path), vec![old]), (vec![new, old], before));
    assert_eq!(retire(&path).expect("two keys"), [new, old]);
    assert_eq!(fingerprints(&path), [new]);
    let mode = fs::metadata(&path).expect("the file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // Nothing is left beside it.
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
}

#[test]
fn flows_are_placed_alike_however_often_the_key_changes() {
    let (_directory, path) = key_file();
    let before = read(&path).place_seed("edge");
    for _ in 0..3 {
        for change in [rotate, retire] {
            change(&path).expect("other keys");
            assert_eq!(read(&path).place_seed("edge"), before);
        }
    }
}

#[test]
fn without_a_line_for_it_the_oldest_key_places_flows() {
    let (old, new) = (DIGITS.to_lowercase(), DIGITS.replace('0', "7"));
    let seed = |text: &str| reading(text, 0o600).expect("keys").place_seed("edge");
    assert_eq!(seed(&old), seed(&format!("{new}\n{old}\n")));
    assert_ne!(seed(&old), seed(&new));
    assert_eq!(seed(&format!("{old}\nplace {new}")), seed(&format!("{new}\nplace {new}")));
}

#[test]
fn there_are_never_more_than_two_keys_nor_none() {
    let (_directory, path) = key_file();
    let text = || fs::read(&path).expect("the file");
    let one = text();
    let error = retire(&path).expect_err("one key");
    assert!(error.to_string().ends_with("holds one key only"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--rotate")));
    assert_eq!(text(), one);
    rotate(&path).expect("two keys");
    let two = text();
    let error = rotate(&path).expect_err("two keys");
    assert!(error.to_string().ends_with("holds two keys already"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--retire")));
    assert_eq!(text(), two);
}

#[test]
fn a_link_goes_on_to_point_to_the_keys() {
    let (directory, path) = key_file();
    let link = directory.path().join("link");
    symlink(&path, &link).expect("a link");
    rotate(&link).expect("two keys");
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    assert_eq!(fingerprints(&path).len(), 2);
}

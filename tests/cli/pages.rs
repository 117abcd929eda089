//! What is made of the command line's own definition: manual pages, and
//! completions.

use std::{collections::BTreeSet, fs};

use lb_tests::harness::{Lab, Result, finish, run, tool};

use super::PATIENCE;

/// Every command by its words, from what `--help` lists.
fn commands(lab: &Lab, words: &[String]) -> Result<BTreeSet<Vec<String>>> {
    let help = run(lab.lb().args(words).arg("--help"), PATIENCE)?.stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.map_while(|line| line.split_whitespace().next());
    let mut all = BTreeSet::from([words.to_vec()]);
    for name in names.filter(|name| *name != "help") {
        all.append(&mut commands(lab, &[words, &[name.to_owned()]].concat())?);
    }
    Ok(all)
}

#[test]
fn every_command_has_a_manual_page() -> Result<()> {
    let lab = Lab::new(0)?;
    let dir = lab.path("man");
    run(lab.lb().arg("man").arg(&dir), PATIENCE)?;
    let commands = commands(&lab, &[])?;
    assert!(commands.len() > 30, "{commands:?}");
    let page = |words: &Vec<String>| [&["lb".to_owned()], &words[..]].concat().join("-") + ".1";
    let expected: BTreeSet<_> = commands.iter().map(page).collect();
    let found = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
    let found: BTreeSet<_> = found.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(found, expected);
    for name in &found {
        // All warnings, and no output but these.
        let mut groff = tool("groff");
        groff.args(["-man", "-Tutf8", "-Kutf8", "-z", "-ww"]);
        let output = finish(groff.arg(dir.join(name)), PATIENCE)?;
        assert!(output.status.success() && output.stderr.is_empty(), "{name}: {}", output.stderr);
        let text = fs::read_to_string(dir.join(name)).unwrap();
        for section in [".SH NAME", ".SH SYNOPSIS"] {
            assert!(text.contains(section), "{name} has no {section}");
        }
    }
    Ok(())
}

#[test]
fn bash_completes_every_command() -> Result<()> {
    let lab = Lab::new(0)?;
    let script = run(lab.lb().args(["completions", "bash"]), PATIENCE)?.stdout;
    let file = lab.path("completions");
    fs::write(&file, script).unwrap();
    run(tool("bash").arg("-n").arg(&file), PATIENCE)?;
    // As bash calls it: the program, the word so far, the word before.
    let complete = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))
                    _lb lb \"${@: -1}\" \"${@: -2:1}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let completes = |words: &[&str]| -> Result<BTreeSet<String>> {
        let mut bash = tool("bash");
        bash.args(["--norc", "-c", complete, "bash"]).arg(&file).args(words);
        Ok(run(&mut bash, PATIENCE)?.stdout.lines().map(str::to_owned).collect())
    };
    assert_eq!(completes(&["lb", "backend", "dr"])?, BTreeSet::from(["drain".into()]));
    for words in commands(&lab, &[])?.iter().filter(|words| !words.is_empty()) {
        let mut words: Vec<_> = words.iter().map(String::as_str).collect();
        words.insert(0, "lb");
        let found = completes(&words)?;
        assert!(found.contains(*words.last().unwrap()), "{words:?}: {found:?}");
    }
    Ok(())
}

//! What goes wrong is said in one line, with the right status, and leaves nothing behind.

use std::fs;
use std::path::Path;

use crate::road::{on_qemu, xtask};

#[test]
fn a_command_that_is_not_in_the_image_is_127() {
    let outcome = on_qemu(&["hello", "--", "no-such-command"]).run();
    outcome.exits(127).prints("");
    assert!(outcome.one_line_of_error().contains("no-such-command"));
}

#[test]
fn a_file_that_is_no_program_is_126() {
    let outcome = on_qemu(&["hello", "--", "/etc"]).run();
    outcome.exits(126).prints("");
    assert!(outcome.one_line_of_error().contains("/etc"));
}

#[test]
fn too_little_memory_is_refused_before_anything_starts() {
    let outcome = on_qemu(&["hello", "--memory", "8m", "--", "true"]).run();
    outcome.exits(125).prints("");
    assert!(outcome.one_line_of_error().contains("memory"));
}

#[test]
fn a_kernel_that_panics_is_125_with_its_reason() {
    // A kernel that finds no PID 1 has nothing else to do.
    let outcome = on_qemu(&["hello", "--cmdline", "rdinit=/nowhere", "--", "true"]).run();
    outcome.exits(125).prints("");
    assert!(outcome.one_line_of_error().contains("panic"), "{}", outcome.stderr);
}

#[test]
fn an_image_that_is_nowhere_is_told_with_the_way_out() {
    let outcome = on_qemu(&["no-such-image", "--", "true"]).run();
    outcome.exits(125).prints("");
    assert!(outcome.one_line_of_error().contains("no-such-image"));
}

#[test]
fn an_unknown_user_is_refused() {
    let outcome = on_qemu(&["hello", "-u", "nobody-of-this-name", "--", "true"]).run();
    outcome.exits(125).prints("");
    assert!(outcome.one_line_of_error().contains("nobody-of-this-name"));
}

#[test]
fn a_run_leaves_nothing_behind_well_or_not() {
    let home = tempfile::tempdir().expect("a directory");
    let runtime = home.path().join("runtime");
    let temporary = home.path().join("temporary");
    for path in [&runtime, &temporary] {
        fs::create_dir(path).expect("a directory");
    }
    for command in ["true", "false", "no-such-command"] {
        let outcome = on_qemu(&["hello", "--", command])
            .env("XDG_DATA_HOME", home.path().join("data"))
            .env("XDG_STATE_HOME", home.path().join("state"))
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("TMPDIR", &temporary)
            .run();
        assert!(outcome.status.code().is_some(), "{}", outcome.stderr);
        let left = [files(&runtime), files(&temporary), files(&home.path().join("state"))].concat();
        let scratch: Vec<_> =
            files(&home.path().join("data")).into_iter().filter(|f| f.contains("scratch")).collect();
        assert!(left.iter().all(|file| file.ends_with("lock")) && scratch.is_empty(), "{left:?} {scratch:?}");
    }
}

fn files(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| {
            if entry.path().is_dir() {
                files(&entry.path())
            } else {
                vec![entry.path().display().to_string()]
            }
        })
        .collect()
}

#[test]
fn options_that_do_not_exist_are_refused_with_usage() {
    let outcome = xtask(&["run", "--no-such-option", "hello"]).run();
    assert!(!outcome.status.success());
    outcome.prints("");
    assert!(outcome.stderr.contains("--no-such-option"), "{}", outcome.stderr);
}

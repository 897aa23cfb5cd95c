//! What the program leaves behind: a result, a page, and a comparison of two results.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn tidewheel_load(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidewheel-load"))
        .args(args)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(text).unwrap()
}

/// A file of this test's own.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn a_result_that_cannot_be_written_is_found_out_before_the_run() {
    for flag in ["--json", "--report"] {
        for path in ["/", "/nonexistent/file"] {
            let output = tidewheel_load(&[
                "idle",
                "--target",
                "bare-loop",
                "--clients",
                "5",
                "--duration",
                "1h",
                "--quiet",
                flag,
                path,
            ]);
            assert_eq!(output.status.code(), Some(2));
            assert!(
                said(&output).contains(&format!("write {path}: ")),
                "{}",
                said(&output)
            );
        }
    }
}

/// A short run with connections alone; its result.
fn idle_run(name: &str) -> (PathBuf, PathBuf, Output) {
    let (json, page) = (file(&format!("{name}.json")), file(&format!("{name}.html")));
    let output = tidewheel_load(&[
        "idle",
        "--target",
        "bare-loop",
        "--clients",
        "50",
        "--duration",
        "300ms",
        "--quiet",
        "--json",
        json.to_str().unwrap(),
        "--report",
        page.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    (json, page, output)
}

/// The result with every connection `times` as expensive.
fn dearer(json: &Path, name: &str, times: f64) -> PathBuf {
    let text = fs::read_to_string(json).unwrap();
    let mut run: serde_json::Value = serde_json::from_str(&text).unwrap();
    let arrival = &mut run["turns"][0]["arrival"];
    let connect_s = arrival["connect_s"].as_f64().unwrap();
    arrival["connect_s"] = (connect_s * times).into();
    let path = file(&format!("{name}.json"));
    fs::write(&path, run.to_string()).unwrap();
    path
}

#[test]
fn a_run_leaves_a_result_and_a_page_and_a_quiet_one_says_nothing_else() {
    let (json, page, output) = idle_run("leaves");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("50 connections got in"));
    let run: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(run["version"], 1);
    assert!(!run["turns"][0]["series"].as_array().unwrap().is_empty());
    assert!(output.stderr.is_empty(), "{}", said(&output));
}

#[test]
fn a_result_compared_with_itself_shows_no_change() {
    let (json, _, _) = idle_run("itself");
    let json = json.to_str().unwrap();
    let output = tidewheel_load(&["compare", json, json, "--fail-on-regression"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("cannot tell: give --repeat 5"));
}

#[test]
fn results_with_nothing_in_common_are_no_comparison() {
    let (json, _, _) = idle_run("common");
    let text = fs::read_to_string(&json).unwrap();
    let other = file("common-other.json");
    fs::write(
        &other,
        text.replace("\"subject\": \"bare loop\"", "\"subject\": \"another\""),
    )
    .unwrap();
    let output = tidewheel_load(&["compare", json.to_str().unwrap(), other.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("no measurement in common"));
}

#[test]
fn a_change_for_the_worse_fails_only_where_that_is_asked_for() {
    let (old, _, _) = idle_run("worse");
    let new = dearer(&old, "worse-by-half", 2.0);
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    let cases: [(&[&str], i32); 3] = [
        (&["compare", old, new], 0),
        (&["compare", old, new, "--fail-on-regression"], 1),
        (&["compare", new, old, "--fail-on-regression"], 0),
    ];
    for (args, code) in cases {
        let output = tidewheel_load(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?} {}",
            said(&output)
        );
    }
}

#[test]
fn a_file_that_is_no_result_is_named_with_what_to_do() {
    let bad = file("bad.json");
    fs::write(&bad, "{\"deliveries\": 5}").unwrap();
    let bad = bad.to_str().unwrap();
    let output = tidewheel_load(&["compare", bad, bad]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains(bad) && said(&output).contains("--json FILE"));
}

//! Tells the program which compiler made it, for `/metrics`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TIDEWHEEL_COMMIT");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(compiler).arg("--version").output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // «rustc 1.90.0 (1159e78c4 2025-09-14)»
    let version = told
        .ok()
        .and_then(|told| Some(told.split_whitespace().nth(1)?.to_owned()));
    let version = version.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=TIDEWHEEL_RUSTC={version}");
}

//! The steps of the test command, in their order.

use std::path::Path;

use crate::instructions;
use crate::process::{run, run_counted, succeeds};
use crate::setup;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// One step of the test command.
pub struct Step {
    /// What it is called on the command line and in the table.
    pub name: &'static str,
    /// What it does, for the usage text.
    pub about: &'static str,
    /// Steps without which this one cannot run.
    pub needs: &'static [&'static str],
    /// Runs it.
    pub run: fn(&Workspace) -> Outcome,
}

/// What became of a step.
pub struct Outcome {
    /// The tests that it ran.
    pub tally: Tally,
    /// How it ended.
    pub verdict: Verdict,
}

/// How a step ended.
pub enum Verdict {
    /// Well.
    Passed,
    /// There is nothing to run, for this reason.
    Absent(String),
    /// Badly, for this reason.
    Failed(String),
}

impl From<Result<(), String>> for Verdict {
    fn from(result: Result<(), String>) -> Verdict {
        match result {
            Ok(()) => Verdict::Passed,
            Err(fault) => Verdict::Failed(fault),
        }
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Outcome {
        Outcome {
            tally: Tally::default(),
            verdict,
        }
    }
}

/// Quick checks first; then what needs the dependency tree. It is built three times at most: its
/// types for clippy, its code for the tests, its code in the `quick` profile for the server that
/// the clients talk to.
pub const STEPS: [Step; 15] = [
    Step {
        name: "system",
        about: "install missing programs: chromium, node, npm, python3, valgrind, rustfmt, clippy",
        needs: &[],
        run: system,
    },
    Step {
        name: "fmt",
        about: "cargo fmt --check",
        needs: &[],
        run: |workspace| checked(workspace, &["fmt", "--all", "--check"]),
    },
    Step {
        name: "clippy",
        about: "cargo clippy over all targets; a warning is a failure",
        needs: &[],
        run: |workspace| {
            let lints = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ];
            checked(workspace, &lints)
        },
    },
    Step {
        name: "deny",
        about: "cargo deny check, where cargo-deny is installed",
        needs: &[],
        run: deny,
    },
    Step {
        name: "test",
        about: "cargo test: units, behaviour, documentation",
        needs: &[],
        run: test,
    },
    Step {
        name: "build",
        about: "the server, in the profile `quick`",
        needs: &[],
        run: |workspace| {
            let server = [
                "build",
                "--profile",
                "quick",
                "--bin",
                "tidewheel",
                "--locked",
            ];
            checked(workspace, &server)
        },
    },
    Step {
        name: "instructions",
        about: "instructions on the paths of a message against their table",
        needs: &["system", "build"],
        run: |workspace| match instructions::absent() {
            Some(reason) => Verdict::Absent(reason).into(),
            None => Verdict::from(instructions::check(workspace)).into(),
        },
    },
    Step {
        name: "loadtest",
        about: "small runs of the load harness against the server, one of which must fail",
        needs: &["build"],
        run: loadtest,
    },
    Step {
        name: "npm",
        about: "npm packages of the clients' tests",
        needs: &["system"],
        run: |workspace| match absent(&workspace.node_clients().join("package-lock.json")) {
            Some(absent) => absent,
            None => Verdict::from(setup::node_packages(workspace)).into(),
        },
    },
    Step {
        name: "python",
        about: "Python packages of the clients' tests",
        needs: &["system"],
        run: |workspace| match absent(&workspace.python_clients().join("requirements.txt")) {
            Some(absent) => absent,
            None => Verdict::from(setup::python_packages(workspace)).into(),
        },
    },
    Step {
        name: "clients-node",
        about: "JavaScript clients and a browser against the server",
        needs: &["build", "npm"],
        run: clients_node,
    },
    Step {
        name: "clients-python",
        about: "Python clients against the server",
        needs: &["build", "python"],
        run: |workspace| clients_python(workspace, "run.py"),
    },
    Step {
        name: "admin-api",
        about: "the admin API: each call, each error, and requests made from its description",
        needs: &["build", "python"],
        run: |workspace| clients_python(workspace, "admin_api.py"),
    },
    Step {
        name: "rfc6455",
        about: "/echo against the cases of an exhaustive RFC 6455 client",
        needs: &["build", "python"],
        run: |workspace| clients_python(workspace, "rfc6455.py"),
    },
    Step {
        name: "overload",
        about: "more connections than descriptors, and a drain under load",
        needs: &["build", "python"],
        run: |workspace| clients_python(workspace, "overload.py"),
    },
];

fn system(workspace: &Workspace) -> Outcome {
    let rust_tools = setup::rust_tools(workspace);
    Verdict::from(rust_tools.and_then(|()| setup::system_packages(workspace))).into()
}

fn deny(workspace: &Workspace) -> Outcome {
    if !succeeds(&mut workspace.cargo(&["deny", "--version"])) {
        return Verdict::Absent("cargo-deny is not installed".to_owned()).into();
    }
    checked(workspace, &["deny", "--workspace", "--locked", "check"])
}

fn test(workspace: &Workspace) -> Outcome {
    let arguments = ["test", "--workspace", "--locked", "--no-fail-fast"];
    // Stale documents must fail here, whatever the shell has set.
    counted(workspace.cargo(&arguments).env_remove("UPDATE_DOCS"))
}

fn loadtest(workspace: &Workspace) -> Outcome {
    if let Some(outcome) = no_server(workspace) {
        return outcome;
    }
    let arguments = [
        "test",
        "--package",
        "tidewheel-load",
        "--test",
        "against_server",
        "--locked",
        "--",
        "--ignored",
    ];
    let mut command = workspace.cargo(&arguments);
    counted(command.env("TIDEWHEEL_BIN", workspace.binary()))
}

fn clients_node(workspace: &Workspace) -> Outcome {
    let script = workspace.node_clients().join("run.mjs");
    if let Some(outcome) = absent(&script).or_else(|| no_server(workspace)) {
        return outcome;
    }
    let mut command = workspace.command("node");
    command.arg(script).arg(workspace.binary());
    if let Some(browser) = setup::browser() {
        command.env("CHROMIUM", browser);
    }
    counted(&mut command)
}

fn clients_python(workspace: &Workspace, script: &str) -> Outcome {
    let script = workspace.python_clients().join(script);
    if let Some(outcome) = absent(&script).or_else(|| no_server(workspace)) {
        return outcome;
    }
    let mut command = workspace.command(workspace.venv().join("bin/python"));
    counted(command.arg(script).arg(workspace.binary()))
}

fn checked(workspace: &Workspace, arguments: &[&str]) -> Outcome {
    Verdict::from(run(&mut workspace.cargo(arguments))).into()
}

fn counted(command: &mut std::process::Command) -> Outcome {
    let (tally, result) = run_counted(command);
    let verdict = match result {
        Ok(()) if tally == Tally::default() => {
            Verdict::Failed("it reported no tests: `N passed, N failed` is expected".to_owned())
        }
        Ok(()) if tally.failed > 0 => Verdict::Failed("it ended well with failed tests".to_owned()),
        result => Verdict::from(result),
    };
    Outcome { tally, verdict }
}

fn absent(file: &Path) -> Option<Outcome> {
    let is_missing = !file.exists();
    is_missing.then(|| Verdict::Absent(format!("{} is not there", file.display())).into())
}

fn no_server(workspace: &Workspace) -> Option<Outcome> {
    let is_missing = !workspace.binary().exists();
    is_missing.then(|| {
        let reason = "the server is not built: run `cargo xtask test build` first";
        Verdict::Failed(reason.to_owned()).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_needs_comes_before_it() {
        for (index, step) in STEPS.iter().enumerate() {
            let before: Vec<_> = STEPS.iter().take(index).map(|step| step.name).collect();
            for need in step.needs {
                assert!(before.contains(need), "{} needs {need}", step.name);
            }
        }
    }
}

//! `docs/flags.md`, written from the options themselves.
//!
//! The test at the end fails when the file is stale; `cargo xtask docs` runs it with
//! `UPDATE_DOCS=1`, which writes the file instead.

use std::fmt::Write as _;

use clap::{Arg, Args, Command};

use super::Serve;
use super::reload::RELOADABLE;
use super::sources::variable_name;

const HEAD: &str = "\
# Flags

<!-- Written by `cargo xtask docs` from src/cli/options.rs: edit there. -->

Every setting has three names: the flag, the environment variable, and the key in the TOML file \
that `--config` names (the flag's name without the dashes in front; for `--rooms` it is `room-names`, because `[[rooms]]` \
are the tables of [rules for rooms](rooms.md)). A flag wins over the \
environment, the environment over the file, the file over the default. An empty variable counts \
as not set; an unknown key in the file is refused; an unknown `TIDEWHEEL_` variable is a warning, \
because Kubernetes sets some of its own.

```toml
listen = \"127.0.0.1:8080\"
max-lag-bytes = \"2MiB\"
heartbeat-interval = \"30s\"
history = 100
```

Durations are a whole number and `us`, `ms`, `s`, `m`, `h` or `d`. Sizes are bytes, or a whole \
number and `KiB`, `MiB`, `GiB`, `kB`, `MB` or `GB`. Rates are a number, or a size, and `/s`, `/m` or \
`/h`; after a colon stands what may come at once, which is otherwise that number: `100/s`, `5/m:20`, \
`64KiB/s:1MiB`. A BOOL flag alone means `true`; `--flag=false` takes back what a weaker layer says. \
What may be repeated is an array in the file, and a list between commas in a variable; a LIST, and \
NETWORKS, stand between commas everywhere, and in the file an array does as well. A stronger layer replaces \
the list of a weaker one. Relative paths, those in the file too, are taken from the directory that the \
program is started in.

What bears ↻ is read anew on SIGHUP, and so are the tables of `[[rooms]]`; files of keys and certificates \
also when they change. Everything else needs a restart, and is named in the log when it was changed.

The secret of `--auth jwt` may stand in `TIDEWHEEL_JWT_SECRET`, which is neither a flag nor a key of \
the file: a command line is there for every user of the machine to see.
";

/// The whole of `docs/flags.md`.
pub fn markdown() -> String {
    let command = Serve::augment_args(Command::new("tidewheel"));
    let mut text = HEAD.to_owned();
    let mut heading = None;
    for arg in command.get_arguments() {
        let own = arg.get_help_heading().unwrap_or("Configuration");
        if heading != Some(own) {
            heading = Some(own);
            let _ = write!(
                text,
                "\n## {own}\n\n| Flag | Value | Default | Variable | Meaning |\n"
            );
            text.push_str("|---|---|---|---|---|\n");
        }
        write_row(&mut text, arg);
    }
    text
}

fn write_row(text: &mut String, arg: &Arg) {
    let flag = arg.get_long().unwrap_or_default();
    let value = arg.get_value_names().and_then(|names| names.first());
    let defaults = arg.get_default_values();
    let default = match defaults.first().and_then(|value| value.to_str()) {
        Some(default) => format!("`{default}`"),
        None => "none".to_owned(),
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "| `--{flag}` | {} | {default} | `{}` | {}{} |",
        value.map_or("", |name| name.as_str()),
        variable_name(flag),
        help.replace('|', "\\|"),
        if RELOADABLE.contains(&flag) {
            " ↻"
        } else {
            ""
        },
    );
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn docs_flags_md_is_what_the_options_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/flags.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, markdown()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == markdown(),
            "docs/flags.md is stale: run `cargo xtask docs`"
        );
    }

    #[test]
    fn every_flag_has_a_heading_a_value_and_one_line_of_help() {
        let command = Serve::augment_args(Command::new("tidewheel"));
        for arg in command.get_arguments() {
            let flag = arg.get_long().unwrap();
            let help = arg.get_help().unwrap().to_string();
            assert!(!help.is_empty() && !help.contains('\n'), "--{flag}: {help}");
            assert!(
                arg.get_long_help().is_none(),
                "--{flag} has a second paragraph"
            );
            assert!(
                arg.get_value_names().is_some(),
                "--{flag} has no value name"
            );
            if flag != "config" {
                assert!(arg.get_help_heading().is_some(), "--{flag} has no heading");
                // What is not given has none.
                assert!(arg.get_default_values().len() <= 1, "--{flag} has defaults");
            }
        }
    }
}

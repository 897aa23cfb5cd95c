//! The command line as a whole: layers, refusals, help.

use std::path::Path;
use std::time::Duration;

use super::host::Host;
use super::*;
use crate::cli::options::Overflow;
use crate::cli::units::Count;

const NO_ENV: [(&str, &str); 0] = [];

fn parse(flags: &[&str], env: &[(&str, &str)]) -> Result<Parsed, CliError> {
    let args = std::iter::once("tidewheel").chain(flags.iter().copied());
    parse_from(args, env.iter().copied())
}

fn options(flags: &[&str], env: &[(&str, &str)]) -> Options {
    match parse(flags, env).unwrap() {
        Parsed::Serve { options, .. } => *options,
        other => panic!("{other:?}"),
    }
}

fn refusal(flags: &[&str], env: &[(&str, &str)]) -> String {
    parse(flags, env).unwrap_err().to_string()
}

/// A configuration file that goes away with the test.
struct File(PathBuf);

impl File {
    fn with(text: &str) -> File {
        static FILES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("tidewheel-cli-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// The refusal of this file, with its path shortened to `FILE`.
    fn refusal(&self) -> String {
        refusal(&["--config", self.path()], &[]).replace(self.path(), "FILE")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn flags_mean_the_same_with_and_without_the_command() {
    let flags = [
        "--listen",
        "127.0.0.1:1",
        "--shards=2",
        "--echo",
        "--overflow",
        "skip",
    ];
    let bare = options(&flags, &[]);
    let with_command = [&["serve"][..], &flags].concat();
    assert_eq!(bare, options(&with_command, &[]));
    assert_eq!(bare.listeners.listen.port(), 1);
    assert_eq!(bare.connections.shards, Count::Exactly(2));
    assert!(bare.listeners.echo);
    assert_eq!(bare.slow_consumers.overflow, Overflow::Skip);
    assert_eq!(options(&[], &[]), Options::default());
}

#[test]
fn a_flag_wins_over_the_environment_the_environment_over_the_file() {
    let file = File::with("history = 1\nmax-rooms = 1_000\nretry-after = '3s'\necho = true\n");
    let env = [
        ("TIDEWHEEL_CONFIG", file.path()),
        ("TIDEWHEEL_HISTORY", "2"),
        ("TIDEWHEEL_MAX_ROOMS", "2000"),
        ("TIDEWHEEL_BACKLOG", ""),
    ];
    let merged = options(&["--history", "3", "--echo=false"], &env);
    assert_eq!(merged.rooms.history, 3);
    assert_eq!(merged.rooms.max_rooms, 2_000);
    assert_eq!(merged.connections.retry_after, Duration::from_secs(3));
    assert!(!merged.listeners.echo);
    assert_eq!(merged.listeners.backlog, 4_096);
    assert!(options(&[], &env).listeners.echo);
}

#[test]
fn a_list_is_repeated_flags_an_array_or_a_text_with_commas() {
    let file = File::with("auth = 'jwt'\njwt-key-file = ['a', 'b=c']\njwt-issuer = 'x,y'\n");
    let lists = |flags: &[&str], env: &[(&str, &str)]| {
        let flags = [&["--config", file.path()], flags].concat();
        let read = options(&flags, env).authentication;
        let files = read.jwt_key_file.iter();
        let files: Vec<_> = files
            .map(|source| source.path.display().to_string())
            .collect();
        (files.join(" "), read.jwt_issuer.join(" "))
    };
    let text = |files: &str, issuers: &str| (files.to_owned(), issuers.to_owned());
    assert_eq!(lists(&[], &[]), text("a c", "x,y"));
    let env = [("TIDEWHEEL_JWT_ISSUER", "p, q,")];
    assert_eq!(lists(&[], &env), text("a c", "p q"));
    let flags = ["--jwt-issuer", "1,2", "--jwt-issuer=3", "--jwt-key-file=d"];
    assert_eq!(lists(&flags, &env), text("d", "1,2 3"));
    assert_eq!(
        File::with("auth = 'jwt'\njwt-key-file = ['a', 1.5]").refusal(),
        "error: invalid value 'a fraction' for jwt-key-file (FILE, line 2): write a string, or a \
         list of them"
    );
    assert_eq!(
        File::with("jwt-key-file = ['a', '=b']").refusal(),
        "error: invalid value '=b' for jwt-key-file (FILE, line 1): not a file; write FILE, or \
         KID=FILE for the key that tokens call KID"
    );
    assert_eq!(
        File::with("history = [1]").refusal(),
        "error: invalid value 'an array' for history (FILE, line 1): write a string, a whole \
         number, true or false"
    );
}

#[test]
fn networks_are_an_array_or_a_text_with_commas() {
    let array = File::with("trusted-proxies = ['10.0.0.0/8', 'fd00::/8']\n");
    let text = File::with("trusted-proxies = '10.0.0.0/8,fd00::/8'\n");
    let of = |file: &File| {
        options(&["--config", file.path()], &[])
            .limits
            .trusted_proxies
    };
    assert_eq!(format!("{:?}", of(&array)), format!("{:?}", of(&text)));
}

#[test]
fn the_secret_of_tokens_is_taken_from_the_environment_alone() {
    let env = [
        ("TIDEWHEEL_JWT_SECRET", "hush-hush"),
        ("TIDEWHEEL_AUTH", "jwt"),
    ];
    let Parsed::Serve {
        options, warnings, ..
    } = parse(&[], &env).unwrap()
    else {
        panic!("not served");
    };
    assert_eq!(warnings, [""; 0]);
    let secret = options.authentication.jwt_secret.as_ref().unwrap();
    assert_eq!(secret.reveal(), "hush-hush");
    let without_jwt = refusal(&[], &env[..1]);
    assert!(
        without_jwt.contains("TIDEWHEEL_JWT_SECRET is set"),
        "{without_jwt}"
    );
    assert!(!without_jwt.contains("hush"), "{without_jwt}");
    assert!(refusal(&["--auth=jwt", "--jwt-secret=x"], &[]).contains("--jwt-secret"));
    let in_file = File::with("jwt-secret = 'hush'").refusal();
    assert!(
        in_file.contains("in the variable TIDEWHEEL_JWT_SECRET"),
        "{in_file}"
    );
    assert!(!in_file.contains("hush"), "{in_file}");
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_what_was_meant() {
    let cases = [
        (
            "# ours\n\nmax-lag-byts = 1\n",
            "error: unknown key `max-lag-byts` (FILE, line 3); did you mean `max-lag-bytes`?",
        ),
        (
            "max_lag_bytes = 1",
            "error: unknown key `max_lag_bytes` (FILE, line 1); did you mean `max-lag-bytes`?",
        ),
        (
            "\n[listeners]\nlisten = 1",
            "error: unknown key `listeners` (FILE, line 2); the file has no tables but [[rooms]], \
             write every other key at the top",
        ),
        (
            "'' = 1",
            "error: unknown key `` (FILE, line 1); keys are the flags of `tidewheel --help`, \
             without dashes in front",
        ),
        (
            "config = 'other.toml'",
            "error: unknown key `config` (FILE, line 1); a file cannot name another one",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(File::with(text).refusal(), expected);
    }
}

#[test]
fn a_bad_value_is_refused_with_its_place_and_what_to_write() {
    let cases = [
        (
            "history = 1\nmax-lag-bytes = '64K'",
            "error: invalid value '64K' for max-lag-bytes (FILE, line 2): not a size; write \
             bytes as 1000, or with B, KiB, MiB, GiB, kB, MB or GB, such as 64KiB",
        ),
        (
            "heartbeat-interval = 25",
            "error: invalid value '25' for heartbeat-interval (FILE, line 1): a duration \
             needs its unit: write 25s, 25ms or 25m",
        ),
        (
            "overflow = 'drop'",
            "error: invalid value 'drop' for overflow (FILE, line 1): write evict or skip or \
             latest",
        ),
        (
            "history = 1.5",
            "error: invalid value 'a fraction' for history (FILE, line 1): write a string, a \
             whole number, true or false",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(File::with(text).refusal(), expected);
    }
    assert_eq!(
        refusal(&[], &[("TIDEWHEEL_FLUSH_BUDGET", "0")]),
        "error: invalid value '0' for flush-budget (environment variable \
         TIDEWHEEL_FLUSH_BUDGET): out of range; write 1 to 100000000"
    );
    let on_the_command_line = refusal(&["--listen", ":9000"], &[]);
    assert!(
        on_the_command_line.starts_with(
            "error: invalid value ':9000' for '--listen <ADDRESS>': not an address; write an \
             IP address and a port, such as 0.0.0.0:9000"
        ),
        "{on_the_command_line}"
    );
}

#[test]
fn a_bad_value_is_refused_even_where_a_stronger_layer_hides_it() {
    let refusal = refusal(&["--history", "1"], &[("TIDEWHEEL_HISTORY", "many")]);
    assert!(refusal.contains("TIDEWHEEL_HISTORY"), "{refusal}");
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_line() {
    let refusal = File::with("history = 1\nlisten = 127.0.0.1:80\n").refusal();
    assert!(refusal.starts_with("error: FILE, line 2: "), "{refusal}");
    let twice = File::with("history = 1\nhistory = 2\n").refusal();
    assert!(
        twice.starts_with("error: FILE, line 2: duplicate key"),
        "{twice}"
    );
}

#[test]
fn a_file_that_is_not_there_is_refused_by_name() {
    let refusal = refusal(&["--config", "/nowhere/tidewheel.toml"], &[]);
    let expected = "error: cannot read the configuration file /nowhere/tidewheel.toml: ";
    assert!(refusal.starts_with(expected), "{refusal}");
}

#[test]
fn a_conflict_names_the_places_that_made_it() {
    let file = File::with("\nmax-message-bytes = '4MiB'\n");
    let error = parse(&["--config", file.path(), "--bus-backlog-bytes=4MiB"], &[]).unwrap_err();
    let CliError::Conflicts(conflicts) = &error else {
        panic!("{error}");
    };
    assert_eq!(conflicts.len(), 3);
    let first = error.to_string().replace(file.path(), "FILE");
    assert!(
        first.starts_with(
            "error: --max-lag-bytes 1MiB is below --max-message-bytes 4MiB: one message would \
             make its reader slow; raise --max-lag-bytes to 4MiB or more, or lower \
             --max-message-bytes\n  max-message-bytes is set in FILE, line 2\n"
        ),
        "{first}"
    );
    assert_eq!(error.exit_code(), EXIT_USAGE);
}

#[test]
fn an_unknown_variable_is_a_warning_unless_kubernetes_made_it() {
    let env = [
        ("TIDEWHEEL_MAX_LAG_BITES", "1"),
        ("TIDEWHEEL_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("TIDEWHEEL_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let Parsed::Serve { warnings, .. } = parse(&[], &env).unwrap() else {
        panic!("not served");
    };
    assert_eq!(
        warnings,
        [
            "environment variable TIDEWHEEL_MAX_LAG_BITES is not known and has no effect; did \
          you mean TIDEWHEEL_MAX_LAG_BYTES?"
        ]
    );
}

#[test]
fn help_and_version_are_printed_whatever_the_environment_says() {
    let env = [("TIDEWHEEL_HISTORY", "many")];
    for flags in [&["--help"][..], &["serve", "--help"], &["-h"]] {
        let Parsed::Print(help) = parse(flags, &env).unwrap() else {
            panic!("not printed");
        };
        assert!(help.contains("Usage: tidewheel "), "{help}");
        assert!(!help.starts_with("The arguments"), "{help}");
        let headings = [
            "Listeners:",
            "TLS:",
            "Connections:",
            "Messages:",
            "Rooms:",
            "Slow consumers:",
            "Memory:",
            "Heartbeat:",
            "Authentication:",
            "Shutdown:",
            "Logging:",
            "Tuning:",
        ];
        let places: Vec<_> = headings
            .iter()
            .map(|text| help.find(text).unwrap())
            .collect();
        assert!(places.is_sorted(), "{help}");
        assert!(help.contains("[default: 64KiB]"), "{help}");
    }
    let Parsed::Print(text) = parse(&["--version"], &env).unwrap() else {
        panic!("not printed");
    };
    assert_eq!(text, format!("tidewheel {}\n", version()));
}

#[test]
fn an_unknown_flag_is_refused_with_the_one_that_was_meant() {
    let refusal = refusal(&["--max-conections", "5"], &NO_ENV);
    assert!(refusal.contains("'--max-connections'"), "{refusal}");
    assert!(parse(&["--history", "1", "--history", "2"], &[]).is_err());
    assert!(parse(&["server"], &[]).is_err());
}

#[test]
fn check_says_what_a_configuration_comes_to_or_what_is_wrong_with_it() {
    let file = File::with("[[rooms]]\npattern = 'a:**'\n[[rooms]]\npattern = 'a:b'\nhistory = 3\n");
    let flags = [
        "check",
        "--config",
        file.path(),
        "--room",
        "a:b",
        "--room=c",
    ];
    let Parsed::Check(check) = parse(&flags, &[]).unwrap() else {
        panic!("no check");
    };
    let host = Host::inspect().unwrap();
    let report = check.run(&host, Path::new("/nonexistent"), 0);
    assert_eq!(report.exit_code, 0);
    let text = report.text.replace(file.path(), "FILE");
    let begins = "the configuration is good; room rules: 2\n\
         warning: the rule for `a:b` (FILE, line 3) has no effect: the earlier `a:**` (FILE, line \
         1) means all of its rooms, and the first match wins\n\nmachine: for ";
    let goes_on = " it has what it takes\n\n\
         room \"a:b\": the rule for `a:**` (FILE, line 1)\n  history            100 ";
    assert!(text.starts_with(begins) && text.contains(goes_on), "{text}");
    assert!(
        text.ends_with("\nroom \"c\": no rule means it; the flags hold\n"),
        "{text}"
    );
    let bad = File::with("[[rooms]]\nhistory = 'x'\npatern = 'a'\n");
    let error = parse(&["check", "--config", bad.path()], &[]).unwrap_err();
    assert_eq!(error.to_string().lines().count(), 3, "{error}");
    assert_eq!(error.exit_code(), EXIT_USAGE);
}

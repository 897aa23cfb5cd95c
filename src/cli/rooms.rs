//! `[[rooms]]` of the configuration file: read, held against the flags, and made into rules.
//!
//! ```toml
//! [[rooms]]
//! pattern = "chat:*"     # required; the first table whose pattern means a room governs it
//! history = 50           # what is left out has the flag's value
//! publish = "members"
//! ```
//!
//! A key that is also a flag is read by the flag's own parser, so that a value means the same in
//! both places. `docs/rooms.md` tells operators of every key.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::options::{Overflow, RoomNames};
use super::sources::{Faults, Origin, closest, file_value, read_value};
use super::units::{ByteSize, MIB, bytes, count};
use super::{CliError, Options, settings};
use crate::gate::{Action, Actions, Glob, HistoryLimits, Publishers, RoomLimits, RoomRule, Rules};

/// The keys of a table; those that are flags, too, come first.
pub const KEYS: [&str; 15] = [
    "history",
    "history-bytes",
    "history-ttl",
    "room-idle-ttl",
    "presence-limit",
    "overflow",
    "pattern",
    "presence",
    "publish",
    "allow",
    "max-members",
    "max-message-bytes",
    "typing",
    "receipts",
    "ephemeral",
];

/// How many of [`KEYS`] are flags, too.
const FLAGS: usize = 6;

/// One table, as the operator wrote it.
#[derive(Clone, PartialEq, Debug)]
pub struct RoomTable {
    /// Which rooms.
    pub pattern: Glob,
    /// Where the table begins.
    pub origin: Origin,
    /// The line of each key that stands in it.
    pub lines: BTreeMap<&'static str, usize>,
    /// As the flag of that name.
    pub history: Option<usize>,
    /// As the flag of that name.
    pub history_bytes: Option<usize>,
    /// As the flag of that name.
    pub history_ttl: Option<Duration>,
    /// As the flag of that name.
    pub room_idle_ttl: Option<Duration>,
    /// As the flag of that name.
    pub presence_limit: Option<usize>,
    /// As the flag of that name.
    pub overflow: Option<Overflow>,
    /// Whether members may know of each other; true by default.
    pub presence: bool,
    /// Who may publish; anyone by default.
    pub publish: Publishers,
    /// What users may do whose token says nothing of rooms.
    pub allow: Option<Actions>,
    /// Users at most.
    pub max_members: Option<usize>,
    /// The payload of a message, in bytes.
    pub max_message_bytes: Option<usize>,
    /// Whether typing passes on; true by default.
    pub typing: bool,
    /// Whether read receipts pass on; true by default.
    pub receipts: bool,
    /// Whether a room keeps nothing and goes with its last member; false by default.
    pub ephemeral: bool,
}

impl RoomTable {
    fn new(pattern: Glob, origin: Origin) -> RoomTable {
        RoomTable {
            pattern,
            origin,
            lines: BTreeMap::new(),
            history: None,
            history_bytes: None,
            history_ttl: None,
            room_idle_ttl: None,
            presence_limit: None,
            overflow: None,
            presence: true,
            publish: Publishers::Anyone,
            allow: None,
            max_members: None,
            max_message_bytes: None,
            typing: true,
            receipts: true,
            ephemeral: false,
        }
    }

    /// The rule that it makes, with what it leaves out as `options` have it.
    pub fn rule(&self, options: &Options) -> RoomRule {
        let flags = settings::room_limits(&options.rooms);
        let ttl = match self.history_ttl {
            Some(ttl) => (!ttl.is_zero()).then_some(ttl),
            None => flags.history.ttl,
        };
        let limits = RoomLimits {
            history: HistoryLimits {
                messages_max: self.history.unwrap_or(flags.history.messages_max),
                bytes_max: self.history_bytes.unwrap_or(flags.history.bytes_max),
                ttl,
            },
            idle_ttl: self.room_idle_ttl.unwrap_or(flags.idle_ttl),
            ..flags
        };
        let presence_limit = self.presence_limit.unwrap_or(options.rooms.presence_limit);
        let overflow = self.overflow.unwrap_or(options.slow_consumers.overflow);
        RoomRule {
            pattern: self.pattern.clone(),
            limits: if self.ephemeral {
                RoomLimits::EPHEMERAL
            } else {
                limits
            },
            presence: self.presence,
            presence_limit: presence_limit as u64,
            overflow: settings::overflow(overflow),
            publish: self.publish,
            allow: self.allow,
            members_max: self.max_members.map(|max| max as u64),
            message_bytes_max: self.max_message_bytes,
            typing: self.typing,
            receipts: self.receipts,
        }
    }

    /// Where a key of it is written.
    pub fn origin_of(&self, key: &str) -> Option<Origin> {
        let line = *self.lines.get(key)?;
        Some(match &self.origin {
            Origin::File { path, .. } => Origin::File {
                path: path.clone(),
                line,
            },
            other => other.clone(),
        })
    }
}

/// The rules that the options come to.
pub fn rules(options: &Options) -> Rules {
    let tables = options.rooms.tables.iter();
    Rules {
        list: tables.map(|table| table.rule(options)).collect(),
        is_explicit: options.rooms.rooms == RoomNames::Explicit,
        default_allow: options.authentication.default_allow,
    }
}

/// What about the tables does no harm, but is hardly meant.
pub fn warnings(options: &Options) -> Vec<String> {
    let tables = &options.rooms.tables;
    let mut found = Vec::new();
    for (at, by) in rules(options).shadowed() {
        let (Some(table), Some(earlier)) = (tables.get(at), tables.get(by)) else {
            continue;
        };
        let problem = if table.pattern == earlier.pattern {
            "is there already"
        } else {
            "means all of its rooms"
        };
        found.push(format!(
            "the rule for `{}` ({}) has no effect: the earlier `{}` ({}) {problem}, and the first \
             match wins",
            table.pattern, table.origin, earlier.pattern, earlier.origin
        ));
    }
    found.extend(tables.iter().flat_map(|table| doubts(table, options)));
    if options.rooms.rooms == RoomNames::Explicit && tables.is_empty() {
        found.push(
            "--rooms explicit without a [[rooms]] table: no room exists; write tables into the \
             file of --config"
                .to_owned(),
        );
    }
    found
}

/// What one table says in vain.
fn doubts(table: &RoomTable, options: &Options) -> Vec<String> {
    let of = |key: &str| table.origin_of(key).unwrap_or_else(|| table.origin.clone());
    let mut found = Vec::new();
    if table.ephemeral {
        let kept = ["history", "history-bytes", "history-ttl", "room-idle-ttl"];
        for key in kept.iter().filter(|key| table.lines.contains_key(**key)) {
            found.push(format!(
                "{key} of `{}` ({}) has no effect: an ephemeral room keeps nothing",
                table.pattern,
                of(key)
            ));
        }
    }
    let whole = options.messages.max_message_bytes;
    if table.max_message_bytes.is_some_and(|max| max >= whole) {
        found.push(format!(
            "max-message-bytes of `{}` ({}) has no effect: --max-message-bytes {} closes before",
            table.pattern,
            of("max-message-bytes"),
            ByteSize(whole)
        ));
    }
    if table.allow.is_some_and(|a| a.contains(Action::Direct)) {
        found.push(format!(
            "direct in allow of `{}` ({}) has no effect: direct messages concern no room",
            table.pattern,
            of("allow")
        ));
    }
    found
}

/// Reads the value of the file's key `rooms`, which begins at `at`.
pub(super) fn read(value: &DeValue<'_>, at: usize, faults: &mut Faults<'_>) -> Vec<RoomTable> {
    let DeValue::Array(tables) = value else {
        let complaint = "write [[rooms]] and under it a pattern; for --rooms, the key in a file \
                         is room-names";
        faults.value(at, "rooms", kind(value), complaint);
        return Vec::new();
    };
    let mut read = Vec::new();
    for table in tables.iter() {
        let at = table.span().start;
        match table.get_ref() {
            DeValue::Table(keys) => read.extend(read_table(keys, at, faults)),
            other => faults.value(at, "rooms", kind(other), "write [[rooms]] tables"),
        }
    }
    read
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Table(_) => "one table",
        DeValue::Array(_) => "an array",
        _ => "a single value",
    }
}

fn read_table(keys: &DeTable<'_>, at: usize, faults: &mut Faults<'_>) -> Option<RoomTable> {
    let before = faults.len();
    let mut table = None;
    match keys.get("pattern") {
        Some(value) => {
            let place = value.span().start;
            if let Some(pattern) = read_pattern(value.get_ref(), place, faults) {
                table = Some(RoomTable::new(pattern, faults.origin_at(at)));
            }
        }
        None => faults.syntax(
            at,
            "a [[rooms]] table has no pattern; write one, such as pattern = \"chat:*\", or \"**\" \
             for every room",
        ),
    }
    // Without a pattern the keys are looked at all the same: all faults are told at once.
    let mut read = table.unwrap_or_else(|| RoomTable::new(EVERY.clone(), faults.origin_at(at)));
    for (key, value) in keys {
        let place = key.span().start;
        let name: &str = key.get_ref();
        match KEYS.iter().find(|known| **known == name) {
            Some(known) => {
                read.lines.insert(known, faults.line_at(place));
                read_key(&mut read, known, value.get_ref(), place, faults);
            }
            None => {
                let hint = match closest(name, KEYS.into_iter()) {
                    Some(meant) => format!("; did you mean `{meant}`?"),
                    None => format!("; a rule has the keys {}", KEYS.join(", ")),
                };
                faults.unknown_key(place, name, hint);
            }
        }
    }
    (faults.len() == before).then_some(read)
}

/// Stands in for a pattern that could not be read.
static EVERY: std::sync::LazyLock<Glob> = std::sync::LazyLock::new(|| {
    #[allow(clippy::expect_used, reason = "a constant that a test parses")]
    Glob::new("**").expect("a pattern")
});

fn read_pattern(value: &DeValue<'_>, at: usize, faults: &mut Faults<'_>) -> Option<Glob> {
    let key = in_table("pattern");
    let DeValue::String(text) = value else {
        faults.value(at, &key, kind(value), "write a text, such as \"chat:*\"");
        return None;
    };
    match Glob::new(text) {
        Ok(pattern) if pattern.names_user() => {
            let complaint = "a room has one rule, whoever asks: {user_id} stands in the patterns \
                             of tokens only; write * in its place";
            faults.value(at, &key, text, complaint);
            None
        }
        Ok(pattern) => Some(pattern),
        Err(bad) => {
            faults.value(at, &key, text, &bad.to_string());
            None
        }
    }
}

fn in_table(key: &str) -> String {
    format!("{key} in [[rooms]]")
}

fn read_key(
    table: &mut RoomTable,
    key: &'static str,
    value: &DeValue<'_>,
    at: usize,
    faults: &mut Faults<'_>,
) {
    let origin = faults.origin_at(at);
    let known_flag = KEYS.iter().take(FLAGS).any(|flag| *flag == key);
    let read = if known_flag {
        read_flag(table, key, value, &origin)
    } else {
        read_own(table, key, value, &origin)
    };
    if let Err(fault) = read {
        faults.push(at, fault);
    }
}

/// A key that is a flag, too: the flag's parser reads it.
fn read_flag(
    table: &mut RoomTable,
    key: &'static str,
    value: &DeValue<'_>,
    origin: &Origin,
) -> Result<(), CliError> {
    let name = in_table(key);
    let text = file_value(&name, value, origin)?;
    let options = read_value(key, &name, &text, origin)?;
    let (rooms, slow) = (options.rooms, options.slow_consumers);
    match key {
        "history" => table.history = Some(rooms.history),
        "history-bytes" => table.history_bytes = Some(rooms.history_bytes),
        "history-ttl" => table.history_ttl = Some(rooms.history_ttl),
        "room-idle-ttl" => table.room_idle_ttl = Some(rooms.room_idle_ttl),
        "presence-limit" => table.presence_limit = Some(rooms.presence_limit),
        _ => table.overflow = Some(slow.overflow),
    }
    Ok(())
}

fn read_own(
    table: &mut RoomTable,
    key: &'static str,
    value: &DeValue<'_>,
    origin: &Origin,
) -> Result<(), CliError> {
    let fault = |value: &str, complaint: String| CliError::Value {
        flag: in_table(key),
        value: value.to_owned(),
        origin: origin.clone(),
        complaint,
    };
    if key == "allow" {
        table.allow = Some(read_actions(value).map_err(|(text, what)| fault(&text, what))?);
        return Ok(());
    }
    let text = file_value(&in_table(key), value, origin)?;
    let truth = || {
        let read = text.parse::<bool>();
        read.map_err(|_| fault(&text, "write true or false".to_owned()))
    };
    match key {
        "presence" => table.presence = truth()?,
        "typing" => table.typing = truth()?,
        "receipts" => table.receipts = truth()?,
        "ephemeral" => table.ephemeral = truth()?,
        "max-members" => {
            let read = count(1..=100_000_000)(&text);
            table.max_members = Some(read.map_err(|bad| fault(&text, bad.to_string()))?);
        }
        "max-message-bytes" => {
            let read = bytes(1..=16 * MIB)(&text);
            table.max_message_bytes = Some(read.map_err(|bad| fault(&text, bad.to_string()))?);
        }
        "publish" => {
            let names = || Publishers::ALL.map(|(_, name)| name).join(" or ");
            let read = Publishers::from_name(&text);
            table.publish = read.ok_or_else(|| fault(&text, format!("write {}", names())))?;
        }
        // The pattern was read before.
        _ => {}
    }
    Ok(())
}

/// Reads a list of actions, or says what is no such list, and what to write.
fn read_actions(value: &DeValue<'_>) -> Result<Actions, (String, String)> {
    let names = Action::ALL.map(|(_, name)| name).join(", ");
    let DeValue::Array(values) = value else {
        let complaint = format!("write a list of some of {names}, such as [\"join\"]");
        return Err((kind(value).to_owned(), complaint));
    };
    let action = |value: &DeValue<'_>| match value {
        DeValue::String(name) => Action::from_name(name)
            .ok_or_else(|| (name.to_string(), format!("no action; there are {names}"))),
        other => Err((
            kind(other).to_owned(),
            format!("no action; there are {names}"),
        )),
    };
    values.iter().map(|v| action(v.get_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sources::options_from_text;

    const WHOLE: &str = "\
history = 7
[[rooms]]
pattern = 'chat:*'
history = 50
history-bytes = '2MiB'
history-ttl = '0'
room-idle-ttl = '1h'
presence = false
presence-limit = 5
overflow = 'skip'
publish = 'members'
allow = ['join', 'history']
max-members = 1_000
max-message-bytes = '4KiB'
typing = false
receipts = false

[[rooms]]
pattern = '**'
ephemeral = true
";

    #[test]
    fn a_table_is_read_key_by_key_and_the_rest_is_the_flags() {
        let (options, warnings) = options_from_text(WHOLE).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let rules = rules(&options);
        let expected = RoomRule {
            pattern: Glob::new("chat:*").unwrap(),
            limits: RoomLimits {
                history: HistoryLimits {
                    messages_max: 50,
                    bytes_max: 2 * MIB,
                    ttl: None,
                },
                idle_ttl: Duration::from_secs(3_600),
                idempotency_window: Duration::from_secs(120),
                idempotency_keys_max: 10_000,
            },
            presence: false,
            presence_limit: 5,
            overflow: crate::gate::Overflow::Skip,
            publish: Publishers::Members,
            allow: Some([Action::Join, Action::History].into_iter().collect()),
            members_max: Some(1_000),
            message_bytes_max: Some(4_096),
            typing: false,
            receipts: false,
        };
        assert_eq!(rules.of("chat:1"), Some(&expected));
        assert_eq!(rules.of("x").unwrap().limits, RoomLimits::EPHEMERAL);
        assert_eq!(options.rooms.tables[0].lines["overflow"], 10);
        let (bare, _) = options_from_text("history = 7\n[[rooms]]\npattern = 'a'").unwrap();
        let limits = super::rules(&bare).of("a").unwrap().limits;
        assert_eq!(limits, settings::room_limits(&bare.rooms));
        assert_eq!(limits.history.messages_max, 7);
    }

    #[test]
    fn all_faults_of_a_file_are_told_with_their_lines() {
        let text = "\
histroy = 1
[[rooms]]
pattern = 'user:{user_id}'
history-bytes = '64K'
[[rooms]]
publish = 'nobody'
max-member = 3
presence = 'yes'
allow = ['join', 'leave']
max-members = 0
overflow = 1.5
";
        let told = options_from_text(text).unwrap_err().to_string();
        let expected = [
            "error: unknown key `histroy` (FILE, line 1); did you mean `history`?",
            "error: invalid value 'user:{user_id}' for pattern in [[rooms]] (FILE, line 3): a room \
             has one rule, whoever asks: {user_id} stands in the patterns of tokens only; write * \
             in its place",
            "error: invalid value '64K' for history-bytes in [[rooms]] (FILE, line 4): not a size; \
             write bytes as 1000, or with B, KiB, MiB, GiB, kB, MB or GB, such as 64KiB",
            "error: FILE, line 5: a [[rooms]] table has no pattern; write one, such as pattern = \
             \"chat:*\", or \"**\" for every room",
            "error: invalid value 'nobody' for publish in [[rooms]] (FILE, line 6): write anyone \
             or members or server or granted",
            "error: unknown key `max-member` (FILE, line 7); did you mean `max-members`?",
            "error: invalid value 'yes' for presence in [[rooms]] (FILE, line 8): write true or \
             false",
            "error: invalid value 'leave' for allow in [[rooms]] (FILE, line 9): no action; there \
             are join, publish, presence, history, direct",
            "error: invalid value '0' for max-members in [[rooms]] (FILE, line 10): out of range; \
             write 1 to 100000000",
            "error: invalid value 'a fraction' for overflow in [[rooms]] (FILE, line 11): write a \
             string, a whole number, true or false",
        ];
        let told: Vec<&str> = told.lines().collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_no_list_of_tables_is_refused() {
        let cases = [
            ("rooms = 3", "invalid value 'a single value' for rooms"),
            (
                "[rooms]\nhistory = 1",
                "invalid value 'one table' for rooms",
            ),
            ("rooms = ['a']", "invalid value 'a single value' for rooms"),
            ("[[rooms]]\npattern = 3", "for pattern in [[rooms]]"),
            ("[[rooms]]\npattern = ''", "write ** for every room"),
            ("[[rooms]]\npattern = 'a'\nallow = 'join'", "write a list"),
        ];
        for (text, expected) in cases {
            let told = options_from_text(text).unwrap_err().to_string();
            assert!(told.contains(expected), "{text}: {told}");
        }
    }

    #[test]
    fn what_is_hardly_meant_is_a_warning() {
        let cases = [
            (
                "[[rooms]]\npattern = 'a'\n[[rooms]]\npattern = 'a'",
                "the rule for `a` (FILE, line 3) has no effect: the earlier `a` (FILE, line 1) is \
                 there already, and the first match wins",
            ),
            (
                "[[rooms]]\npattern = 'c:**'\n[[rooms]]\npattern = 'c:d:*'",
                "the rule for `c:d:*` (FILE, line 3) has no effect: the earlier `c:**` (FILE, line \
                 1) means all of its rooms, and the first match wins",
            ),
            (
                "[[rooms]]\npattern = 'a'\nephemeral = true\nhistory = 3",
                "history of `a` (FILE, line 4) has no effect: an ephemeral room keeps nothing",
            ),
            (
                "[[rooms]]\npattern = 'a'\nmax-message-bytes = '1MiB'",
                "max-message-bytes of `a` (FILE, line 3) has no effect: --max-message-bytes 64KiB \
                 closes before",
            ),
            (
                "[[rooms]]\npattern = 'a'\nallow = ['direct']",
                "direct in allow of `a` (FILE, line 3) has no effect: direct messages concern no \
                 room",
            ),
            (
                "room-names = 'explicit'",
                "--rooms explicit without a [[rooms]] table: no room exists; write tables into \
                 the file of --config",
            ),
        ];
        for (text, expected) in cases {
            let (_, warnings) = options_from_text(text).unwrap();
            assert_eq!(warnings, [expected], "{text}");
        }
    }
}

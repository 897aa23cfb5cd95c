//! Which rule a room has, and where each of its values comes from.

use std::fmt::Write as _;

use crate::cli::Options;
use crate::cli::options::RoomNames;
use crate::cli::rooms::{KEYS, RoomTable};
use crate::cli::sources::Origin;
use crate::cli::units::{ByteSize, TimeSpan};
use crate::gate::{Action, Actions, Overflow, RoomRule};
use crate::protocol::ids::is_room_name;

/// The keys that have a flag's value where a table leaves them out.
const FLAGS: [&str; 7] = [
    "history",
    "history-bytes",
    "history-ttl",
    "room-idle-ttl",
    "presence-limit",
    "overflow",
    "max-message-bytes",
];

/// The room's rule, a line for each value.
pub(super) fn explain(name: &str, options: &Options) -> String {
    if !is_room_name(name) {
        return format!(
            "room {name:?}: no name of a room: 1 to 255 bytes without control characters\n"
        );
    }
    let rules = crate::cli::rooms::rules(options);
    let place = rules.find(name);
    let found = place.and_then(|place| Some((options.rooms.tables.get(place)?, rules.get(place)?)));
    let Some((table, rule)) = found else {
        return match options.rooms.rooms {
            RoomNames::Explicit => format!(
                "room {name:?}: no rule means it, and with --rooms explicit it does not exist: \
                 error 4007\n"
            ),
            RoomNames::Open => format!("room {name:?}: no rule means it; the flags hold\n"),
        };
    };
    let mut text = format!(
        "room {name:?}: the rule for `{}` ({})\n",
        table.pattern, table.origin
    );
    let width = KEYS.iter().map(|key| key.len()).max().unwrap_or_default();
    for key in KEYS.iter().filter(|key| **key != "pattern") {
        let value = value(key, table, rule, options);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {key:width$}  {value:12}  {}", source(key, table));
    }
    text
}

/// Where a value comes from.
fn source(key: &str, table: &RoomTable) -> String {
    let is_kept = ["history", "history-bytes", "history-ttl", "room-idle-ttl"].contains(&key);
    match table.origin_of(key) {
        _ if table.ephemeral && is_kept => "rule: ephemeral keeps nothing".to_owned(),
        Some(Origin::File { line, .. }) => format!("rule, line {line}"),
        Some(origin) => format!("rule, {origin}"),
        None if FLAGS.contains(&key) => format!("flag --{key}"),
        None => "default".to_owned(),
    }
}

fn value(key: &str, table: &RoomTable, rule: &RoomRule, options: &Options) -> String {
    let limits = &rule.limits;
    match key {
        "history" => limits.history.messages_max.to_string(),
        "history-bytes" => ByteSize(limits.history.bytes_max).to_string(),
        "history-ttl" => TimeSpan(limits.history.ttl.unwrap_or_default()).to_string(),
        "room-idle-ttl" => TimeSpan(limits.idle_ttl).to_string(),
        "presence-limit" => rule.presence_limit.to_string(),
        "overflow" => match rule.overflow {
            Overflow::Evict => "evict".to_owned(),
            Overflow::Skip => "skip".to_owned(),
            Overflow::Latest => "latest".to_owned(),
        },
        "presence" => rule.presence.to_string(),
        "publish" => rule.publish.name().to_owned(),
        "allow" => {
            let default = crate::cli::rooms::rules(options).default_allow;
            names(rule.allow.unwrap_or(default))
        }
        "max-members" => match rule.members_max {
            Some(max) => max.to_string(),
            None => "no bound".to_owned(),
        },
        "max-message-bytes" => {
            let whole = options.messages.max_message_bytes;
            ByteSize(rule.message_bytes_max.unwrap_or(whole)).to_string()
        }
        "typing" => rule.typing.to_string(),
        "receipts" => rule.receipts.to_string(),
        _ => table.ephemeral.to_string(),
    }
}

fn names(actions: Actions) -> String {
    let named = Action::ALL.iter().filter(|(a, _)| actions.contains(*a));
    let names: Vec<&str> = named.map(|(_, name)| *name).collect();
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sources::options_from_text;

    #[test]
    fn a_room_is_explained_value_by_value() {
        let text = "\
history = 7
room-names = 'explicit'
[[rooms]]
pattern = 'chat:*'
history-bytes = '2MiB'
publish = 'members'
allow = ['join', 'publish']
[[rooms]]
pattern = 'here'
ephemeral = true
";
        let (options, _) = options_from_text(text).unwrap();
        let expected = "\
room \"chat:1\": the rule for `chat:*` (FILE, line 3)
  history            7             flag --history
  history-bytes      2MiB          rule, line 5
  history-ttl        1h            flag --history-ttl
  room-idle-ttl      10m           flag --room-idle-ttl
  presence-limit     200           flag --presence-limit
  overflow           evict         flag --overflow
  presence           true          default
  publish            members       rule, line 6
  allow              join publish  rule, line 7
  max-members        no bound      default
  max-message-bytes  64KiB         flag --max-message-bytes
  typing             true          default
  receipts           true          default
  ephemeral          false         default
";
        assert_eq!(explain("chat:1", &options), expected);
        let here = explain("here", &options);
        let kept = "  history            0             rule: ephemeral keeps nothing\n";
        assert!(here.contains(kept), "{here}");
        assert!(explain("nowhere", &options).ends_with("it does not exist: error 4007\n"));
        assert!(explain("a\nb", &options).contains("no name of a room"));
        let (open, _) = options_from_text("").unwrap();
        assert!(explain("x", &open).ends_with("no rule means it; the flags hold\n"));
    }
}

//! Whether a token is taken, and what its bearer may do in which rooms.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::policy::read_bounded;
use crate::gate::{Action, Asked, Authentication, Grant, Policy, Wish};
use crate::protocol::Timestamp;

/// The text, and whether the token is taken.
pub(super) fn explain(
    file: &Path,
    policy: &Policy,
    rooms: &[String],
    now_unix_ms: u64,
) -> (String, bool) {
    let named = file.display();
    let Authentication::Token(verifier) = &policy.authentication else {
        let text = format!("token {named}: not looked at; only --auth jwt does that\n");
        return (text, false);
    };
    let bytes = match read_bounded(file) {
        Ok(bytes) => bytes,
        Err(error) => return (format!("token {named}: cannot be read: {error}\n"), false),
    };
    let token = String::from_utf8_lossy(&bytes);
    match verifier.verify(token.trim(), now_unix_ms) {
        Ok(grant) => (describe(&named.to_string(), &grant, policy, rooms), true),
        Err(fault) => (format!("token {named}: refused: {fault}\n"), false),
    }
}

fn describe(named: &str, grant: &Grant, policy: &Policy, rooms: &[String]) -> String {
    let until = match grant.expires_at_unix_ms {
        Some(ms) => format!("until {}", Timestamp::from_unix_ms(ms)),
        None => "for ever".to_owned(),
    };
    // What a token says is not the terminal's to obey.
    let user = grant.user.to_string();
    let mut text = format!("token {named}: taken as {user:?}, {until}\n");
    for room in rooms {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  room {room:?}");
        for (action, name) in Action::ALL {
            if action != Action::Direct {
                let verdict = verdict(action, room, grant, policy);
                let _ = writeln!(text, "    {name:9} {verdict}");
            }
        }
    }
    let by_default = || policy.rules.default_allow.contains(Action::Direct);
    let writes = grant.allows_direct().unwrap_or_else(by_default);
    let verdict = if writes { "yes" } else { "no, 4010" };
    let _ = writeln!(text, "  messages to single users: {verdict}");
    text
}

/// Whether an action is allowed; if not, why.
fn verdict(action: Action, room: &str, grant: &Grant, policy: &Policy) -> String {
    let rules = &policy.rules;
    let rule = rules.of(room);
    let asked = Asked {
        rules,
        room,
        rule,
        grant: Some(grant),
        is_member: true,
    };
    let (history, presence) = (false, false);
    let found = match action {
        Action::Join => asked.permits(Wish::Join { history, presence }),
        Action::Publish => asked.permits(Wish::Publish { bytes: 0 }),
        Action::Presence => asked.permits(Wish::Members),
        Action::History => asked.permits(Wish::History),
        // It concerns no room.
        Action::Direct => Ok(()),
    };
    match found {
        Ok(()) => "yes".to_owned(),
        Err(denied) => format!("no, {}: {denied}", denied.code() as u16),
    }
}

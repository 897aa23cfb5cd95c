//! A membership as the member sees it: which offset must come next, and who else is there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Check;
use crate::law::Law;
use crate::session::Question;
use crate::truth::{Asked, Glimpse, Truth};

/// The replay after a join.
struct Replay {
    history: u64,
    recover: Option<(String, u64)>,
    recovered: bool,
    first: Option<u64>,
    last: u64,
    count: u64,
    floor_ms: u64,
    told_ms: u64,
}

/// What a watcher knows of the others.
#[derive(Default)]
pub struct Watch {
    pub count: u64,
    /// Whoever came or went since.
    pub users: BTreeMap<String, bool>,
}

pub struct Member {
    peer: usize,
    pub epoch: String,
    /// The newest offset when it joined.
    joined_at: u64,
    /// The newest offset that is accounted for.
    pub position: u64,
    replay: Replay,
    pub watch: Option<Watch>,
    /// Users that were seen to start typing, and not to stop.
    pub typing: BTreeSet<String>,
}

fn number(payload: &Value, name: &str) -> Result<u64, String> {
    payload[name].as_u64().ok_or_else(|| format!("no {name}"))
}

impl Member {
    pub fn new(
        peer: usize,
        question: &Question,
        payload: &Value,
        floor_ms: u64,
        told_ms: u64,
    ) -> Result<Member, String> {
        let Question::Join {
            history,
            recover,
            presence,
            ..
        } = question
        else {
            return Err("not asked to join".into());
        };
        let epoch = payload["epoch"].as_str().ok_or("no epoch")?;
        let offset = number(payload, "offset")?;
        let recovered = payload["recovered"].as_bool().ok_or("no recovered")?;
        let fits = recover
            .as_ref()
            .is_some_and(|(e, o)| e == epoch && *o <= offset);
        if recovered && !fits {
            return Err(format!("recovered from {recover:?}"));
        }
        Ok(Member {
            peer,
            epoch: epoch.to_owned(),
            joined_at: offset,
            position: offset,
            replay: Replay {
                history: *history,
                recover: recover.clone(),
                recovered,
                first: None,
                last: 0,
                count: 0,
                floor_ms,
                told_ms,
            },
            watch: (*presence == Some(true)).then(|| Watch {
                count: payload["members"].as_u64().unwrap_or_default(),
                users: BTreeMap::new(),
            }),
            typing: BTreeSet::new(),
        })
    }

    /// `room_joined` for a member: everything before it was given, nothing is replayed.
    pub fn joined_again(
        &mut self,
        peer: usize,
        room: &str,
        question: &Question,
        payload: &Value,
        truth: &mut Truth,
    ) -> Check {
        let offset = number(payload, "offset")?;
        if payload["epoch"] != *self.epoch || payload["recovered"] == true {
            return Err(format!("a member of {} joined anew", self.epoch));
        }
        self.replay_is_whole()?;
        if offset < self.position {
            return Err(format!("back from {}", self.position));
        }
        truth.excuse(peer, room, &self.epoch, (self.position + 1, offset))?;
        self.position = offset;
        let wanted = match question {
            Question::Join { presence, .. } => *presence,
            _ => None,
        };
        if wanted.unwrap_or(self.watch.is_some()) {
            self.watch.get_or_insert_default().count = number(payload, "members")?;
        } else {
            self.watch = None;
        }
        Ok(())
    }

    fn replay_is_whole(&self) -> Check {
        let Replay {
            first,
            last,
            recovered,
            recover,
            ..
        } = &self.replay;
        let from = recover.as_ref().map_or(0, |(_, offset)| *offset);
        let nothing = !recovered || from == self.joined_at;
        let is_whole = match first {
            None => nothing,
            Some(_) => *last == self.joined_at,
        };
        if is_whole {
            Ok(())
        } else {
            Err(format!(
                "the replay ended at {last} of {}, recovered {recovered} from {from}",
                self.joined_at
            ))
        }
    }

    pub fn message(
        &mut self,
        peer: usize,
        room: &str,
        text: &str,
        event: &Value,
        truth: &mut Truth,
        _now_ms: u64,
    ) -> Check {
        let (offset, publication) = truth.see(room, &self.epoch, text, event)?;
        if offset <= self.joined_at {
            return self.replayed(offset);
        }
        self.replay_is_whole()?;
        if offset <= self.position {
            return Err(format!("again, or out of order: {} came", self.position));
        }
        let publication = &truth.publications[publication];
        if publication.peer == peer && !publication.echo {
            return Err("its own, without echo".into());
        }
        truth.excuse(peer, room, &self.epoch, (self.position + 1, offset - 1))?;
        self.position = offset;
        Ok(())
    }

    fn replayed(&mut self, offset: u64) -> Check {
        let replay = &mut self.replay;
        let expected = match (replay.first, &replay.recover) {
            (Some(_), _) => Some(replay.last + 1),
            (None, Some((_, from))) if replay.recovered => Some(from + 1),
            _ => None,
        };
        if self.position != self.joined_at || expected.is_some_and(|e| e != offset) {
            return Err(format!(
                "a replay that should go on with {expected:?}; live are at {}",
                self.position
            ));
        }
        replay.first.get_or_insert(offset);
        replay.last = offset;
        replay.count += 1;
        Ok(())
    }

    pub fn missed(&mut self, peer: usize, room: &str, payload: &Value, truth: &mut Truth) -> Check {
        let (from, to) = (number(payload, "from")?, number(payload, "to")?);
        self.replay_is_whole()?;
        if from <= self.position || to < from {
            return Err(format!("it stands at {}", self.position));
        }
        truth.excuse(peer, room, &self.epoch, (self.position + 1, from - 1))?;
        self.position = to;
        Ok(())
    }

    pub fn typing(&mut self, kind: &str, user: &str) {
        match kind {
            "typing_start" => {
                self.typing.insert(user.to_owned());
            }
            "typing_stop" => {
                self.typing.remove(user);
            }
            _ => {}
        }
    }

    pub fn presence_update(&mut self, room: &str, payload: &Value, user: &str, law: &Law) -> Check {
        let is_exact = law.presence_is_exact(room);
        if law.rule(room).is_some_and(|rule| !rule.presence) {
            return Err("this room tells no presence".into());
        }
        let watch = self.watch.as_mut().ok_or("not asked for")?;
        let count = number(payload, "count")?;
        let about = payload["user_id"].as_str();
        let came = match payload["event"].as_str() {
            Some("summary") if is_exact => return Err("a summary".into()),
            Some("summary") => {
                watch.count = count;
                watch.users.clear();
                return Ok(());
            }
            Some("join") => true,
            Some("leave") => false,
            _ => return Err("no event".into()),
        };
        let about = about.filter(|about| *about != user);
        let about = about.ok_or("about oneself or nobody")?;
        let expected = if came {
            watch.count + 1
        } else {
            watch.count.wrapping_sub(1)
        };
        let before = watch.users.insert(about.to_owned(), came);
        let is_news = count == expected && before != Some(came);
        watch.count = count;
        if is_news || !is_exact {
            Ok(())
        } else {
            Err(format!("{expected} were expected, {about} was {before:?}"))
        }
    }

    /// The membership is over, in an orderly way or not: what its join was told is evidence.
    pub fn end(self, room: &str, truth: &mut Truth, orderly: bool) -> Check {
        if orderly {
            self.replay_is_whole()?;
        }
        if self.replay_is_whole().is_err() || (!orderly && self.position == self.joined_at) {
            return Ok(());
        }
        let Replay {
            history,
            recover,
            recovered,
            first,
            count,
            floor_ms,
            told_ms,
            ..
        } = self.replay;
        let same_epoch = recover.filter(|(epoch, _)| *epoch == self.epoch);
        truth.glimpse(Glimpse {
            what: format!("peer {}'s join of {room}", self.peer),
            room: room.to_owned(),
            epoch: self.epoch,
            newest: self.joined_at,
            asked: match same_epoch {
                Some((_, from)) => Asked::Recover(from, history),
                None => Asked::Newest(history),
            },
            first,
            count,
            whole: Some(recovered),
            floor_ms,
            told_ms,
        });
        Ok(())
    }
}

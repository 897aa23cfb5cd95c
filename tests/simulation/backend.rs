//! What the operator's backend does meanwhile: it publishes, tells everyone or one user something, puts
//! users into rooms and takes them out, and looks around. Each question is on its way to a core for a
//! while, and what the core answers must be true.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};
use tidewheel::address::{Placement, RoomKey};
use tidewheel::bus::{ApiAnswer, ApiAsk, Past, Post, Query, Refused, Ticket};
use tidewheel::gate::RoomRule;
use tidewheel::protocol::UserId;
use tidewheel::shard::Phase;
use tidewheel::time::Now;

use crate::Check;
use crate::session::history;
use crate::truth::{Asked, BACKEND, Direct, Publication};
use crate::world::{Turn, World};

/// A question on its way to a core, and what it is about.
struct Sent {
    ask: ApiAsk,
    about: About,
    /// Everything that was due before this had been done when it was asked.
    floor_ms: u64,
}

/// What has to be known to judge an answer.
enum About {
    /// Publications, in order.
    Posts(Vec<usize>),
    /// A broadcast.
    Broadcast(usize),
    /// A direct message.
    Direct(usize),
    /// A join or a leave.
    Order(usize),
    /// A room, and which messages of it.
    Past(String, Option<u64>, u32),
    Nothing,
}

/// A message to everyone.
pub struct Broadcast {
    pub raw: String,
    /// Who was established on a core when it took it in.
    owed: BTreeSet<usize>,
}

/// Users were to be put into a room, or taken out.
pub struct PlaceOrder {
    pub user: String,
    pub room: String,
    /// How many times everything had come to rest when it was given.
    pub rests: u64,
    /// A core took it in.
    pub is_taken: bool,
}

/// The backend's side.
pub struct Backend {
    placement: Placement,
    /// What each core has not heard yet.
    under_way: Vec<VecDeque<Sent>>,
    tickets: u64,
}

impl Backend {
    pub fn new(seed: u64, cores: u16) -> Backend {
        Backend {
            placement: Placement::new(seed, cores),
            under_way: (0..cores).map(|_| VecDeque::new()).collect(),
            tickets: 0,
        }
    }

    pub fn is_heard(&self) -> bool {
        self.under_way.iter().all(VecDeque::is_empty)
    }
}

impl World {
    /// The backend asks for something.
    pub fn ask_cores(&mut self) {
        match self.rng.u8(..10) {
            0..3 => self.post(),
            3 => self.broadcast(),
            4 => self.tell_user(),
            5..8 => self.order_place(),
            _ => self.look(),
        }
    }

    fn some_room(&mut self) -> String {
        self.plan.rooms[self.rng.usize(..self.plan.rooms.len())].clone()
    }

    fn send_to_home(&mut self, room: &str, about: About, ask: impl FnOnce(RoomKey) -> ApiAsk) {
        let room = self.backend.placement.room(room);
        let core = self.backend.placement.home_of(room.hash()).index();
        self.send_query(core, about, ask(room));
    }

    fn send_query(&mut self, core: usize, about: About, ask: ApiAsk) {
        let floor_ms = self.floor_ms();
        self.trace
            .note(|| format!("the backend asks core {core}: {ask:?}"));
        let sent = Sent {
            ask,
            about,
            floor_ms,
        };
        self.backend.under_way[core].push_back(sent);
    }

    /// Several messages, to rooms of one home.
    fn post(&mut self) {
        let first = self.some_room();
        let first = self.backend.placement.room(&first);
        let home = self.backend.placement.home_of(first.hash());
        let (mut posts, mut places) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.usize(1..5) {
            let room = self.some_room();
            let room = self.backend.placement.room(&room);
            if self.backend.placement.home_of(room.hash()) != home {
                continue;
            }
            let n = self.truth.publications.len();
            let filler = "x".repeat(self.rng.usize(..120));
            let message_id = (self.rng.u8(..4) == 0).then(|| format!("id{}", self.rng.u8(..6)));
            let raw = format!("{{\"n\":{n},\"x\":\"{filler}\"}}");
            posts.push(Post {
                room: room.clone(),
                payload: raw.as_bytes().into(),
                message_id: message_id.as_deref().map(Box::from),
            });
            places.push(n);
            self.truth.publications.push(Publication {
                peer: BACKEND,
                room: room.name().to_owned(),
                raw,
                echo: true,
                message_id,
                user: None,
                floor_ms: self.floor_ms(),
                accepted: None,
                answered: None,
                refused: false,
            });
        }
        let ask = ApiAsk::Publish(posts);
        self.send_query(home.index(), About::Posts(places), ask);
    }

    fn broadcast(&mut self) {
        let n = self.truth.broadcasts.len();
        let filler = "b".repeat(self.rng.usize(..80));
        let raw = format!("{{\"b\":{n}, \"x\":\"{filler}\"}}");
        let payload = raw.as_bytes().into();
        let owed = BTreeSet::new();
        self.truth.broadcasts.push(Broadcast { raw, owed });
        for core in 0..self.cores.len() {
            let ask = ApiAsk::Broadcast(std::sync::Arc::clone(&payload));
            self.send_query(core, About::Broadcast(n), ask);
        }
    }

    /// Somebody with a name; now and then somebody who is never there.
    fn some_user(&mut self) -> String {
        let names = self.clients.iter().filter_map(|c| c.name.clone());
        let name = self.rng.choice(names.collect::<Vec<String>>());
        name.filter(|_| self.rng.u8(..10) > 0)
            .unwrap_or_else(|| "zed".to_owned())
    }

    fn users_home(&self, user: &UserId) -> usize {
        let hash = self.backend.placement.hash_one(user);
        self.backend.placement.home_of(hash).index()
    }

    fn tell_user(&mut self) {
        let n = self.truth.directs.len();
        let to = self.some_user();
        let raw = format!("{{\"d\":{n}}}");
        let user = UserId::from_name(&to);
        let data = raw.as_bytes().into();
        self.truth.directs.push(Direct {
            from: BACKEND,
            to,
            raw,
            rests: self.rests,
            accepted: false,
            refused: false,
            not_taken: false,
            got: BTreeMap::new(),
        });
        let core = self.users_home(&user);
        self.send_query(core, About::Direct(n), ApiAsk::Direct { user, data });
    }

    fn order_place(&mut self) {
        let (name, room_name) = (self.some_user(), self.some_room());
        let user = UserId::from_name(&name);
        let room = self.backend.placement.room(&room_name);
        let n = self.truth.place_orders.len();
        self.truth.place_orders.push(PlaceOrder {
            user: name,
            room: room_name,
            rests: self.rests,
            is_taken: false,
        });
        let core = self.users_home(&user);
        let ask = match self.rng.u8(..3) {
            0 => ApiAsk::Leave { user, room },
            _ => ApiAsk::Join { user, room },
        };
        self.send_query(core, About::Order(n), ask);
    }

    fn look(&mut self) {
        let room = self.some_room();
        let core = self.rng.usize(..self.cores.len());
        match self.rng.u8(..6) {
            0 | 1 => {
                let since = self.rng.bool().then(|| self.rng.u64(..40));
                let limit = self.rng.u32(..30);
                let about = About::Past(room.clone(), since, limit);
                let limit = Some(limit);
                self.send_to_home(&room, about, |room| ApiAsk::History { room, since, limit });
            }
            2 => self.send_to_home(&room, About::Nothing, ApiAsk::Members),
            3 => self.send_to_home(&room, About::Nothing, ApiAsk::Room),
            4 => self.send_query(core, About::Nothing, ApiAsk::Rooms { from: 0, limit: 3 }),
            _ => {
                let ask = ApiAsk::Look {
                    rooms_from: Some(0),
                    connections_from: Some(0),
                    top: 2,
                };
                self.send_query(core, About::Nothing, ask);
            }
        }
    }

    /// A core hears questions, each in its own time, and answers.
    pub fn take_queries(&mut self, core: usize, turn: Turn, now: Now) -> Check {
        loop {
            let waits = !self.backend.under_way[core].is_empty();
            if !waits || (turn == Turn::Some && self.rng.bool()) {
                return Ok(());
            }
            let Some(sent) = self.backend.under_way[core].pop_front() else {
                return Ok(());
            };
            let answer = self.answer_to(core, sent.ask, now)?;
            self.trace
                .note(|| format!("  core {core} answers {answer:?}"));
            self.audit(core, "a query")?;
            self.judge_answer(core, sent.about, answer, (sent.floor_ms, now.unix_ms))
                .map_err(|fault| format!("the backend: {fault}"))?;
        }
    }

    fn answer_to(&mut self, core: usize, ask: ApiAsk, now: Now) -> Result<ApiAnswer, String> {
        self.backend.tickets += 1;
        let ticket = Ticket(self.backend.tickets);
        let shard = &mut self.cores[core].shard;
        shard.handle_query(now, Query { ticket, ask });
        let answers = shard.poll_answers().ok_or("no answer")?;
        match <[_; 1]>::try_from(answers) {
            Ok([answer]) if answer.ticket == ticket => Ok(answer.answer),
            other => Err(format!("not the one answer: {other:?}")),
        }
    }

    fn judge_answer(
        &mut self,
        core: usize,
        about: About,
        answer: ApiAnswer,
        times: (u64, u64),
    ) -> Check {
        match (about, answer) {
            (About::Posts(places), ApiAnswer::Published(results)) => {
                if places.len() != results.len() {
                    return Err(format!("{} results", results.len()));
                }
                for (n, result) in places.into_iter().zip(results) {
                    let publication = &mut self.truth.publications[n];
                    match result {
                        Ok(at) => {
                            publication.answered = Some((at.epoch.to_string(), at.offset));
                        }
                        Err(refused) => {
                            publication.refused = true;
                            let (room, bytes) = (publication.room.clone(), publication.raw.len());
                            self.may_refuse(&room, bytes, &refused)?;
                        }
                    }
                }
                Ok(())
            }
            (About::Broadcast(n), ApiAnswer::Connections(count)) => {
                let owed: Vec<usize> = self.established(core);
                if count != owed.len() as u64 {
                    return Err(format!("{count} connections, not {owed:?}"));
                }
                self.truth.broadcasts[n].owed.extend(owed);
                Ok(())
            }
            (About::Direct(n), ApiAnswer::Connections(count)) => {
                let direct = &mut self.truth.directs[n];
                (direct.accepted, direct.refused) = (count > 0, count == 0);
                Ok(())
            }
            (About::Order(n), ApiAnswer::Connections(_)) => {
                self.truth.place_orders[n].is_taken = true;
                Ok(())
            }
            (About::Order(n), ApiAnswer::Refused(refused)) => {
                let room = self.truth.place_orders[n].room.clone();
                self.may_refuse(&room, 0, &refused)
            }
            (About::Broadcast(_), ApiAnswer::Refused(refused)) => self.may_refuse("", 0, &refused),
            (About::Past(room, since, limit), ApiAnswer::History(past)) => match past {
                Some(past) => self.take_past(&room, since, limit, &past, times),
                None => Ok(()),
            },
            (
                About::Nothing,
                ApiAnswer::Members(_)
                | ApiAnswer::Room(_)
                | ApiAnswer::Rooms { .. }
                | ApiAnswer::Sight(_),
            ) => Ok(()),
            (_, answer) => Err(format!("that is no answer: {answer:?}")),
        }
    }

    /// Who is established on a core.
    fn established(&self, core: usize) -> Vec<usize> {
        let shard = &self.cores[core].shard;
        let is_native = |index: u32| {
            let backlog = shard.backlog(index);
            backlog.is_some_and(|b| b.phase == Phase::Native)
        };
        let slots = self.cores[core].slots.iter().enumerate();
        let here = slots.filter(|(index, _)| is_native(*index as u32));
        here.filter_map(|(_, id)| *id).collect()
    }

    /// Whether the backend may be refused something.
    fn may_refuse(&self, room: &str, bytes: usize, refused: &Refused) -> Check {
        let max = |rule: &RoomRule| rule.message_bytes_max;
        let max = self.plan.law.rule(room).and_then(max);
        let is_right = match refused.code as u16 {
            4005 => max.is_some_and(|max| bytes > max),
            4007 => self.plan.law.is_unknown(room),
            4100 => self.plan.shard.rooms_max < 10 || self.plan.is_short_of_memory(),
            _ => false,
        };
        if is_right {
            Ok(())
        } else {
            Err(format!("{room}, {bytes} bytes: {refused:?}"))
        }
    }

    /// Takes note of what was told of a room's past.
    fn take_past(
        &mut self,
        room: &str,
        since: Option<u64>,
        limit: u32,
        past: &Past,
        (floor_ms, told_ms): (u64, u64),
    ) -> Check {
        let bodies = past.messages.iter().map(|frame| frame.body());
        let texts = bodies.map(|body| str::from_utf8(body).map_err(|e| e.to_string()));
        let texts: Vec<&str> = texts.collect::<Result<_, _>>()?;
        let values = texts.iter().map(|text| serde_json::from_str::<Value>(text));
        let values: Vec<Value> = values
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let payload = json!({
            "epoch": past.epoch.to_string(),
            "offset": past.offset,
            "messages": values,
            "complete": past.complete,
        });
        let text = texts.concat();
        let mut glimpse = history(room, &payload, &text, &mut self.truth)?;
        glimpse.what = format!("the backend's look at {room}, {since:?} {limit}");
        glimpse.asked = match since {
            Some(since) => Asked::After(since, u64::from(limit)),
            None => Asked::Newest(u64::from(limit)),
        };
        (glimpse.floor_ms, glimpse.told_ms) = (floor_ms, told_ms);
        self.truth.glimpse(glimpse);
        Ok(())
    }

    /// When everything has come to rest: who was told what by the backend, and what it sees.
    pub fn judge_backend(&mut self) -> Check {
        for (id, peer) in self.peers.iter().enumerate() {
            if !peer.is_open() || peer.session.echoes.is_some() {
                continue;
            }
            for (n, broadcast) in self.truth.broadcasts.iter().enumerate() {
                if broadcast.owed.contains(&id) && !peer.session.broadcasts.contains(&n) {
                    return Err(format!("broadcast {n} never came to peer {id}"));
                }
            }
            let Some(user) = &peer.session.user else {
                continue;
            };
            let Some(since) = peer.known_since else {
                continue;
            };
            for (room, least) in self.truth.orders_since(user, since) {
                let told = peer.session.unasked.get(room).copied().unwrap_or_default();
                if told < least {
                    return Err(format!(
                        "peer {id} was told {told} times of {least} orders about {room}"
                    ));
                }
            }
        }
        self.rooms_are_as_clients_know_them()
    }

    fn rooms_are_as_clients_know_them(&mut self) -> Check {
        let now = self.now();
        for room in self.plan.rooms.clone() {
            let key = self.backend.placement.room(&room);
            let core = self.backend.placement.home_of(key.hash()).index();
            let users = self.listing(&room);
            let (members, connections) = (users.len() as u64, users.values().sum::<u64>());
            let told = match self.answer_to(core, ApiAsk::Members(key.clone()), now)? {
                ApiAnswer::Members(Some(crowd)) => {
                    let listed = crowd.members.iter();
                    let listed = listed.map(|m| (m.user.to_string(), m.connections));
                    (crowd.count, listed.collect::<BTreeMap<_, _>>())
                }
                _ => (0, BTreeMap::new()),
            };
            if told != (members, users) {
                return Err(format!("the backend sees {told:?} in {room}"));
            }
            match self.answer_to(core, ApiAsk::Room(key), now)? {
                ApiAnswer::Room(Some(facts)) => {
                    if (facts.members, facts.connections) != (members, connections) {
                        return Err(format!("{facts:?}; {members} users, {connections}"));
                    }
                }
                ApiAnswer::Room(None) if members == 0 => {}
                other => return Err(format!("{room}: {other:?}")),
            }
        }
        Ok(())
    }
}

//! What comes of the options on this machine: how many cores and connections, and the text that
//! says so when the server starts.
//!
//! All of it is a function of facts: nothing here asks the machine or prints.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::time::Duration;

use super::exposure;
use super::options::{AuthMethod, DurabilityMode, Overflow};
use super::settings::memory_budget;
use super::units::{ByteSize, Count, MIB, TimeSpan, counted};
use super::{Options, host::Host, version};
use crate::reactor::tls::Shown;
use crate::server::{Capacity, DESCRIPTORS_RESERVED, Kept};
use crate::shard::{CONNECTION_BYTES, PLACE_BYTES};

/// All the facts of a start. Its `Display` is the summary.
#[derive(Copy, Clone, Debug)]
pub struct Startup<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// What the machine allows.
    pub host: &'a Host,
    /// Whether each core has a descriptor table of its own.
    pub has_own_tables: bool,
    /// The address the public listener got: the port is real, even where port 0 was asked for.
    pub listen: SocketAddr,
    /// The address the admin listener got.
    pub admin_listen: SocketAddr,
    /// The certificates that the public listener shows.
    pub shown: &'a [Shown],
    /// What was found on disk, where history is kept there.
    pub kept: Option<&'a Kept>,
}

impl Startup<'_> {
    /// How much the server takes on.
    pub fn capacity(&self) -> Capacity {
        let shards = self.options.connections.shards.unwrap_or(self.host.cores);
        let asked = match self.options.connections.max_connections {
            Count::Auto => None,
            Count::Exactly(count) => Some(count),
        };
        Capacity::of(shards, self.host.descriptors, asked, self.has_own_tables)
    }

    /// What the operator should know, and what to do about it; empty when all is well.
    pub fn warnings(&self) -> Vec<String> {
        [
            self.too_few_descriptors(),
            self.backlog_lowered(),
            self.more_shards_than_cores(),
            self.anonymous_from_outside(),
            self.everyone_at_one_address(),
            self.made_for_development(),
            self.budget_below_connections(),
            self.budget_above_the_machine(),
            self.history_not_whole(),
        ]
        .into_iter()
        .flatten()
        .chain(exposure::warnings(self.options))
        .collect()
    }

    /// What is kept on disk, and what was found there.
    fn history(&self) -> String {
        let Some(kept) = self.kept else {
            return "in memory: gone with the process (no --data-dir)".to_owned();
        };
        let folder = kept.folder.display();
        let when = match self.options.store.durability {
            DurabilityMode::Fsync => "before a publish is answered".to_owned(),
            DurabilityMode::Async => {
                format!("within {}", TimeSpan(self.options.store.flush_interval))
            }
        };
        let rooms = counted(kept.rooms as u64, "room");
        let messages = counted(kept.messages as u64, "message");
        let bans = counted(kept.bans as u64, "ban");
        let took = TimeSpan(Duration::from_millis(kept.took.as_millis() as u64));
        format!("on disk in {folder}, {when}\n  read back    {rooms}, {messages}, {bans} in {took}")
    }

    fn history_not_whole(&self) -> Option<String> {
        let kept = self.kept?;
        if let Some(damage) = &kept.damage {
            let folder = kept.folder.display();
            return Some(format!(
                "--data-dir {folder} was damaged, and what is whole was kept: {damage}"
            ));
        }
        (kept.renewed && kept.rooms > 0).then(|| {
            "the last run did not end cleanly, and with --durability async its newest messages may \
             be lost: rooms go on with new epochs, and clients are told that they did not recover"
                .to_owned()
        })
    }

    fn too_few_descriptors(&self) -> Option<String> {
        let capacity = self.capacity();
        let possible = capacity.connections_possible;
        let shortage = match self.options.connections.max_connections {
            Count::Exactly(asked) if asked > possible => {
                format!(
                    "--max-connections {asked} is more than the descriptor limit allows, {possible}"
                )
            }
            _ if possible == 0 => "the descriptor limit leaves nothing for connections".to_owned(),
            _ => return None,
        };
        let more_tables = if self.has_own_tables {
            "; or give more --shards: each has the limit to itself"
        } else {
            ""
        };
        Some(format!(
            "{shortage}; raise the limit from {} (ulimit -n, LimitNOFILE= of systemd, \
             --ulimit nofile of a container){more_tables}",
            self.host.descriptors
        ))
    }

    fn backlog_lowered(&self) -> Option<String> {
        let asked = self.options.listeners.backlog;
        let allowed = self.host.backlog_max.filter(|max| *max < asked)?;
        Some(format!(
            "--backlog {asked} is lowered to {allowed} by the kernel; \
             sysctl net.core.somaxconn={asked} allows it"
        ))
    }

    fn more_shards_than_cores(&self) -> Option<String> {
        let (shards, cores) = (self.capacity().shards, self.host.cores);
        (shards > cores).then(|| {
            format!("--shards {shards} is more than the {cores} cores here: they will take turns")
        })
    }

    fn budget_below_connections(&self) -> Option<String> {
        let budget = memory_budget(self.options, self.host)?;
        let Count::Exactly(connections) = self.options.connections.max_connections else {
            return None;
        };
        let each = CONNECTION_BYTES + PLACE_BYTES;
        // The level from which on newcomers are refused, less what the allocator adds.
        let places = budget / each / 4 * 3;
        (places < connections).then(|| {
            format!(
                "--memory-budget {} is enough for {places} idle connections, at {each} bytes each, \
                 and not for --max-connections {connections}; raise it to {} or more",
                ByteSize(budget),
                ByteSize((connections * each / 3 * 4).next_multiple_of(MIB))
            )
        })
    }

    fn budget_above_the_machine(&self) -> Option<String> {
        let budget = memory_budget(self.options, self.host)?;
        let here = self.host.memory.bytes()?;
        (budget > here).then(|| {
            format!(
                "--memory-budget {} is more than the {} that this process may have; the system may \
                 end it before the budget is reached",
                ByteSize(budget),
                ByteSize(here)
            )
        })
    }

    fn anonymous_from_outside(&self) -> Option<String> {
        let is_open = !self.listen.ip().to_canonical().is_loopback();
        (is_open && self.options.authentication.auth == AuthMethod::None).then(|| {
            format!(
                "--insecure-allow-anonymous: whoever reaches {} may read and write every room",
                self.listen
            )
        })
    }

    /// Whoever reaches a loopback address from outside comes through a proxy.
    fn everyone_at_one_address(&self) -> Option<String> {
        let limits = &self.options.limits;
        let are_counted =
            limits.limit_address_connects.0.is_some() || limits.max_connections_per_address > 0;
        let is_loopback = self.listen.ip().to_canonical().is_loopback();
        (are_counted && is_loopback && limits.trusted_proxies.0.is_empty()).then(|| {
            format!(
                "limits on addresses are set, and {} is reached from this machine alone: behind a proxy \
                 all clients count as one; name it in --trusted-proxies",
                self.listen
            )
        })
    }
}

impl Startup<'_> {
    /// The public listener's address as clients write it.
    pub fn public_url(&self) -> String {
        let scheme = scheme(self.options.tls.is_on());
        format!("{scheme}://{}", self.listen)
    }

    /// The admin listener's.
    pub fn admin_url(&self) -> String {
        let scheme = scheme(self.options.tls.is_on_for_admin());
        format!("{scheme}://{}", self.admin_listen)
    }

    fn made_for_development(&self) -> Option<String> {
        let made = self.shown.iter().find(|shown| shown.file.is_none())?;
        Some(format!(
            "--tls-self-signed: a certificate for development, made anew at each start; nobody \
             trusts it by itself. Its SHA-256 fingerprint is {}",
            made.fingerprint
        ))
    }
}

fn scheme(is_tls: bool) -> &'static str {
    if is_tls { "https" } else { "http" }
}

impl Display for Startup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.options;
        let Capacity {
            shards,
            connections_possible,
            connections,
            ..
        } = self.capacity();
        let echo = if options.listeners.echo {
            ", /echo"
        } else {
            ""
        };
        let table = if self.has_own_tables {
            "for each core"
        } else {
            "for all cores together"
        };

        writeln!(f, "tidewheel {}", version())?;
        writeln!(f, "  public       {} (/ws{echo})", self.public_url())?;
        writeln!(f, "  admin        {}", self.admin_url())?;
        writeln!(f, "  cores        {shards} of {}", self.host.cores)?;
        write!(f, "  descriptors  {} {table}", Limit(self.host.descriptors))?;
        writeln!(f, ", {DESCRIPTORS_RESERVED} of each core kept back")?;
        write!(f, "  connections  {} at most", Limit(connections))?;
        if connections < connections_possible {
            write!(f, " (descriptors allow {})", Limit(connections_possible))?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "  messages     {} at most",
            ByteSize(options.messages.max_message_bytes)
        )?;
        writeln!(
            f,
            "  slow readers {} when {} or {} behind",
            overflow_text(options.slow_consumers.overflow),
            ByteSize(options.slow_consumers.max_lag_bytes),
            TimeSpan(options.slow_consumers.max_lag_age)
        )?;
        match memory_budget(options, self.host) {
            Some(budget) => {
                write!(f, "  memory       {} MiB at most", budget / MIB)?;
                match self.host.memory.bytes() {
                    Some(here) => writeln!(f, ", of {} MiB here", here / MIB)?,
                    None => writeln!(f)?,
                }
            }
            None => writeln!(f, "  memory       no budget")?,
        }
        writeln!(f, "  users        {}", exposure::users(options))?;
        writeln!(f, "  rooms        {}", exposure::rooms(options))?;
        writeln!(f, "  limits       {}", exposure::limits(options))?;
        writeln!(f, "  history      {}", self.history())?;
        for warning in self.warnings() {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

fn overflow_text(overflow: Overflow) -> &'static str {
    match overflow {
        Overflow::Evict => "closed",
        Overflow::Skip => "jump ahead, told what they missed,",
        Overflow::Latest => "get the newest message only, told what they missed,",
    }
}

/// A number that may stand for having no limit.
struct Limit(usize);

impl Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            usize::MAX => f.write_str("unlimited"),
            count => write!(f, "{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rates::networks;
    use crate::server::Available;

    const HOST: Host = Host {
        cores: 2,
        descriptors: 20_000,
        backlog_max: Some(4_096),
        memory: Available {
            machine: Some(8 << 30),
            group: Some(2 << 30),
        },
    };

    fn summary(change: impl FnOnce(&mut Options), host: &Host, has_own_tables: bool) -> String {
        let mut options = Options::default();
        change(&mut options);
        let startup = Startup {
            options: &options,
            host,
            has_own_tables,
            listen: options.listeners.listen,
            admin_listen: options.listeners.admin_listen,
            shown: &[],
            kept: None,
        };
        startup.to_string().replace(version(), "VERSION")
    }

    #[test]
    fn a_usual_start_is_told_in_a_few_lines() {
        let expected = "\
tidewheel VERSION
  public       http://127.0.0.1:8080 (/ws)
  admin        http://127.0.0.1:9090
  cores        2 of 2
  descriptors  20000 for each core, 64 of each core kept back
  connections  39872 at most
  messages     64KiB at most
  slow readers closed when 1MiB or 10s behind
  memory       1536 MiB at most, of 2048 MiB here
  users        anyone, under any name (--auth none)
  rooms        of any name, 0 rules
  limits       no rate of messages or connections
  history      in memory: gone with the process (no --data-dir)
";
        assert_eq!(summary(|_| {}, &HOST, true), expected);
    }

    #[test]
    fn a_start_that_asks_for_too_much_is_told_what_it_gets() {
        let host = Host {
            backlog_max: Some(128),
            descriptors: 1_024,
            ..HOST
        };
        let change = |options: &mut Options| {
            options.listeners.listen = "0.0.0.0:80".parse().unwrap();
            options.listeners.echo = true;
            options.authentication.insecure_allow_anonymous = true;
            options.connections.shards = Count::Exactly(4);
            options.connections.max_connections = Count::Exactly(100_000);
            options.slow_consumers.overflow = Overflow::Skip;
            options.memory.memory_budget = Count::Exactly(32 * MIB);
        };
        let expected = "\
tidewheel VERSION
  public       http://0.0.0.0:80 (/ws, /echo)
  admin        http://127.0.0.1:9090
  cores        4 of 2
  descriptors  1024 for all cores together, 64 of each core kept back
  connections  768 at most
  messages     64KiB at most
  slow readers jump ahead, told what they missed, when 1MiB or 10s behind
  memory       32 MiB at most, of 2048 MiB here
  users        anyone, under any name (--auth none)
  rooms        of any name, 0 rules
  limits       no rate of messages or connections
  history      in memory: gone with the process (no --data-dir)
warning: --max-connections 100000 is more than the descriptor limit allows, 768; raise the limit \
from 1024 (ulimit -n, LimitNOFILE= of systemd, --ulimit nofile of a container)
warning: --backlog 4096 is lowered to 128 by the kernel; sysctl net.core.somaxconn=4096 allows it
warning: --shards 4 is more than the 2 cores here: they will take turns
warning: --insecure-allow-anonymous: whoever reaches 0.0.0.0:80 may read and write every room
warning: --memory-budget 32MiB is enough for 74898 idle connections, at 336 bytes each, and not for \
--max-connections 100000; raise it to 43MiB or more
warning: tokens and messages cross the network in the clear; add --tls-cert and --tls-key, or name the \
         proxy that speaks TLS in --trusted-proxies
warning: strangers are held to no rate; set --limit-connection-messages, --limit-user-messages, \
         --limit-user-rooms and --max-connections-per-address (docs/limits.md)
warning: --echo is open to everyone, whatever --auth and --allow-origin say: it is for tests
";
        assert_eq!(summary(change, &host, false), expected);
    }

    #[test]
    fn limits_on_addresses_that_would_count_the_proxy_are_said() {
        let told = |trusted: &str| {
            let change = |options: &mut Options| {
                options.limits.max_connections_per_address = 5;
                options.limits.trusted_proxies = networks(trusted).unwrap();
            };
            summary(change, &HOST, true).contains("name it in --trusted-proxies")
        };
        assert!(told("none") && !told("127.0.0.1"));
    }

    #[test]
    fn a_budget_that_the_machine_does_not_have_is_said() {
        let budget = |count| move |o: &mut Options| o.memory.memory_budget = Count::Exactly(count);
        let text = summary(budget(3 << 30), &HOST, true);
        assert!(
            text.contains("--memory-budget 3GiB is more than the 2GiB"),
            "{text}"
        );
        assert!(summary(budget(0), &HOST, true).contains("memory       no budget"));
    }

    #[test]
    fn a_limit_that_leaves_nothing_is_said() {
        let none = Host {
            descriptors: 64,
            ..HOST
        };
        assert!(summary(|_| {}, &none, true).contains("leaves nothing for connections"));
    }
}

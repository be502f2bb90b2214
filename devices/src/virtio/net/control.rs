//! What a driver says of the frames that it wants (virtio 5.1.6.5).

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MAC_TABLE_SET,
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_CTRL_RX,
    VIRTIO_NET_CTRL_RX_ALLMULTI, VIRTIO_NET_CTRL_RX_ALLUNI, VIRTIO_NET_CTRL_RX_NOBCAST,
    VIRTIO_NET_CTRL_RX_NOMULTI, VIRTIO_NET_CTRL_RX_NOUNI, VIRTIO_NET_CTRL_RX_PROMISC,
    VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::filter::{Filter, MOST_ADDRESSES, Table};
use crate::dma::DmaMemory;
use crate::net::Mac;
use crate::virtio::device::{ServeError, Served};
use crate::virtio::requests;

/// The most bytes of a command: a driver has tables of some hundred addresses at most.
const MOST_COMMAND_BYTES: usize = 16 << 10;
/// Bytes of an address, and of the number of those in a table.
const MAC_BYTES: usize = 6;
const COUNT_BYTES: usize = 4;
/// The most commands in one turn.
const MOST_COMMANDS: u16 = 16;

/// What a command asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// Other frames than before.
    Frames(Filter),
    /// That many pairs of queues from now on.
    Pairs(u16),
}

/// Does commands in `queue`, up to one about pairs; true if it changed `filter`. How many pairs of queues are used is
/// said to `set_pairs`, which has it be so, or refuses by false.
///
/// # Errors
/// A command or the ring makes no sense.
pub(super) fn serve(
    queue: &mut Queue,
    memory: &DmaMemory,
    buffers: &mut Vec<Descriptor>,
    filter: &mut Filter,
    mut set_pairs: impl FnMut(u16) -> bool,
) -> Result<(Served, bool), ServeError> {
    let (mut has_changed, mut is_last) = (false, false);
    for _ in 0..MOST_COMMANDS.min(queue.size()) {
        let Some(head) = requests::next_into(queue, memory, buffers)? else {
            return Ok((Served::All, has_changed));
        };
        let command = command(buffers, memory)?;
        let acknowledgement = acknowledgement(buffers)?;
        let wanted = command.and_then(|command| wanted(filter, &command));
        let status = match wanted {
            Some(Wanted::Frames(next)) => {
                *filter = next;
                has_changed = true;
                VIRTIO_NET_OK
            }
            Some(Wanted::Pairs(count)) => {
                is_last = true;
                match set_pairs(count) {
                    true => VIRTIO_NET_OK,
                    false => VIRTIO_NET_ERR,
                }
            }
            None => VIRTIO_NET_ERR,
        };
        let [status, ..] = status.to_le_bytes();
        memory.write_obj(status, acknowledgement)?;
        queue.add_used(memory, head, 1)?;
        // A call of the host's for each pair, which waits for other processors: enough for one turn.
        if is_last {
            break;
        }
    }
    Ok((Served::Some, has_changed))
}

/// The bytes of a command; `None` if it is too long to be one.
fn command(buffers: &[Descriptor], memory: &DmaMemory) -> Result<Option<Vec<u8>>, ServeError> {
    let mut bytes = Vec::new();
    for buffer in buffers.iter().filter(|it| !it.is_write_only()) {
        let start = bytes.len();
        let length = usize::try_from(buffer.len()).unwrap_or(usize::MAX);
        if length > MOST_COMMAND_BYTES - start {
            return Ok(None);
        }
        bytes.resize(start + length, 0);
        memory.read_slice(&mut bytes[start..], buffer.addr())?;
    }
    Ok(Some(bytes))
}

/// Where it is to be said whether a command was done.
fn acknowledgement(buffers: &[Descriptor]) -> Result<GuestAddress, ServeError> {
    let mut writable = buffers.iter().filter(|it| it.is_write_only());
    let place = writable.find(|it| it.len() != 0);
    place
        .map(Descriptor::addr)
        .ok_or(ServeError::Request("no place for its acknowledgement"))
}

/// What a command asks for; `None` for a command that there is not.
fn wanted(filter: &Filter, command: &[u8]) -> Option<Wanted> {
    let (&[class, kind], data) = command.split_first_chunk()?;
    match (u32::from(class), u32::from(kind)) {
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => {
            Some(Wanted::Pairs(u16::from_le_bytes(data.try_into().ok()?)))
        }
        _ => with(filter, command).map(Wanted::Frames),
    }
}

/// The filter as a command has it; `None` for a command that has none.
fn with(filter: &Filter, command: &[u8]) -> Option<Filter> {
    let mut next = filter.clone();
    let (&[class, kind], data) = command.split_first_chunk()?;
    match (u32::from(class), u32::from(kind)) {
        (VIRTIO_NET_CTRL_RX, kind) => {
            let &[value] = data else {
                return None;
            };
            *mode(&mut next, kind)? = value != 0;
        }
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) => {
            next.mac = Mac(data.try_into().ok()?);
        }
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET) => {
            let (unicast, rest) = table(data)?;
            let (multicast, rest) = table(rest)?;
            if !rest.is_empty() {
                return None;
            }
            (next.unicast, next.multicast) = (unicast, multicast);
        }
        _ => return None,
    }
    Some(next)
}

fn mode(filter: &mut Filter, kind: u32) -> Option<&mut bool> {
    Some(match kind {
        VIRTIO_NET_CTRL_RX_PROMISC => &mut filter.promiscuous,
        VIRTIO_NET_CTRL_RX_ALLMULTI => &mut filter.all_multicast,
        VIRTIO_NET_CTRL_RX_ALLUNI => &mut filter.all_unicast,
        VIRTIO_NET_CTRL_RX_NOMULTI => &mut filter.no_multicast,
        VIRTIO_NET_CTRL_RX_NOUNI => &mut filter.no_unicast,
        VIRTIO_NET_CTRL_RX_NOBCAST => &mut filter.no_broadcast,
        _ => return None,
    })
}

/// A table, and what is behind it.
fn table(data: &[u8]) -> Option<(Table, &[u8])> {
    let (count, rest) = data.split_first_chunk::<COUNT_BYTES>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (entries, rest) = rest.split_at_checked(count.checked_mul(MAC_BYTES)?)?;
    let (entries, _) = entries.as_chunks::<MAC_BYTES>();
    let table = Table {
        addresses: entries
            .iter()
            .take(MOST_ADDRESSES)
            .copied()
            .map(Mac)
            .collect(),
        overflows: count > MOST_ADDRESSES,
    };
    Some((table, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn a_command_changes_what_it_names() {
        let filter = Filter::of_card(OWN);
        type IsSet = fn(&Filter) -> bool;
        let modes: [(u8, IsSet); 6] = [
            (0, |it| !it.promiscuous),
            (1, |it| it.all_multicast),
            (2, |it| it.all_unicast),
            (3, |it| it.no_multicast),
            (4, |it| it.no_unicast),
            (5, |it| it.no_broadcast),
        ];
        for (kind, is_set) in modes {
            let value = u8::from(kind != 0);
            let next = with(&filter, &[0, kind, value]).unwrap();
            assert!(is_set(&next), "{kind}");
            assert_ne!(next, filter);
        }
        let next = with(&filter, &[1, 1, 2, 9, 9, 9, 9, 9]).unwrap();
        assert_eq!(next.mac, Mac([2, 9, 9, 9, 9, 9]));
        let mut command = vec![1, 0];
        command.extend(1_u32.to_le_bytes());
        command.extend([2, 0, 0, 0, 0, 7]);
        command.extend(65_u32.to_le_bytes());
        command.extend([1; 65 * 6]);
        let next = with(&filter, &command).unwrap();
        assert_eq!(next.unicast.addresses, [Mac([2, 0, 0, 0, 0, 7])]);
        assert!(!next.unicast.overflows);
        assert_eq!(next.multicast.addresses.len(), 64);
        assert!(next.multicast.overflows);
    }

    #[test]
    fn what_is_no_command_changes_nothing() {
        let filter = Filter::of_card(OWN);
        for command in [
            &[][..],
            &[0],
            &[0, 0],
            &[0, 0, 1, 1],
            &[0, 6, 1],
            &[1, 1, 2, 0, 0],
            &[1, 0, 255, 255, 255, 255],
            &[1, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[2, 0, 0, 0],
            &[4, 0, 1, 0],
            &[5, 0],
        ] {
            assert_eq!(with(&filter, command), None, "{command:?}");
        }
    }

    #[test]
    fn a_number_of_pairs_has_two_bytes() {
        let filter = Filter::of_card(OWN);
        let pairs = wanted(&filter, &[4, 0, 1, 2]);
        assert_eq!(pairs, Some(Wanted::Pairs(0x201)));
        for command in [&[4, 0, 1][..], &[4, 0, 1, 0, 0], &[4, 1, 1, 0], &[4, 0]] {
            assert_eq!(wanted(&filter, command), None, "{command:?}");
        }
        assert!(matches!(
            wanted(&filter, &[0, 0, 1]),
            Some(Wanted::Frames(_))
        ));
    }
}

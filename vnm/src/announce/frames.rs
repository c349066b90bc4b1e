//! The frames that announce a guest, byte by byte. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use causeway_core::names::Mac;

const BROADCAST: [u8; 6] = [0xff; 6];
const RARP: [u8; 2] = [0x80, 0x35];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Ethernet's shortest frame without its check sequence.
const SHORTEST: usize = 60;

/// A reverse-ARP request from and for the guest (RFC 903), the frame that QEMU announces with: it needs no address.
pub fn rarp(mac: Mac) -> Vec<u8> {
    arp(mac, RARP, 3, Ipv4Addr::UNSPECIFIED, mac.0, Ipv4Addr::UNSPECIFIED)
}

/// An ARP announcement: a request for the guest's own address (RFC 5227 section 2.3).
pub fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp(mac, ARP, 1, address, [0; 6], address)
}

fn arp(
    mac: Mac,
    ethertype: [u8; 2],
    operation: u8,
    sender: Ipv4Addr,
    target: [u8; 6],
    wanted: Ipv4Addr,
) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ethertype);
    // Ethernet, IPv4, address lengths 6 and 4.
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac.0);
    frame.extend(sender.octets());
    frame.extend(target);
    frame.extend(wanted.octets());
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// An unsolicited neighbour advertisement to all nodes (RFC 4861 section 7.2.6), with the override flag.
pub fn unsolicited_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    // Option: target link-layer address, one unit of eight bytes.
    message.extend([2, 1]);
    message.extend(mac.0);
    let sum = checksum(address, all_nodes, &message);
    if let Some(slot) = message.get_mut(2..4) {
        slot.copy_from_slice(&sum.to_be_bytes());
    }

    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, IPV6);
    // Version 6, payload length, next header ICMPv6, hop limit 255: anything less is ignored by receivers.
    frame.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend(address.octets());
    frame.extend(all_nodes.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: [u8; 6], from: Mac, ethertype: [u8; 2]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(to);
    frame.extend(from.0);
    frame.extend(ethertype);
    frame
}

/// The Internet checksum over ICMPv6's pseudo header and message (RFC 4443 section 2.3). The message is 32 bytes long.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo = [0, 0, 0, 32, 0, 0, 0, 58];
    let bytes = [from.octets().as_slice(), &to.octets(), &pseudo, message].concat();
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([0x02, 0, 0x0a, 0x0b, 0, 0x0a]);

    #[test]
    fn rarp_is_the_frame_that_qemu_sends() {
        let expected = "ffffffffffff02000a0b000a8035000108000604000302000a0b000a0000000002000a0b000a00000000";
        let frame = rarp(MAC);
        assert_eq!(hex(&frame[..42]), expected);
        assert_eq!(frame.len(), 60);
        assert!(frame[42..].iter().all(|b| *b == 0));
    }

    #[test]
    fn an_arp_announcement_names_the_address_twice() {
        let expected = "ffffffffffff02000a0b000a0806000108000604000102000a0b000a0a0b000a0000000000000a0b000a";
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(10, 11, 0, 10));
        assert_eq!(hex(&frame[..42]), expected);
    }

    #[test]
    fn an_advertisement_of_link_local_one() {
        let frame = unsolicited_advertisement(MAC, "fe80::1".parse().unwrap());
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(hex(&frame[..22]), "33330000000102000a0b000a86dd6000000000203aff");
        // By hand: the one's complement sum of pseudo header and message with the checksum in place is all ones.
        assert_eq!(hex(&frame[54..58]), format!("8800{}", hex(&frame[56..58])));
    }

    proptest! {
        #[test]
        fn a_receiver_finds_the_checksum_right(mac: [u8; 6], address: u128) {
            let frame = unsolicited_advertisement(Mac(mac), Ipv6Addr::from(address));
            let mut pseudo = frame[22..54].to_vec();
            pseudo.extend([0, 0, 0, 32, 0, 0, 0, 58]);
            pseudo.extend(&frame[54..]);
            let mut sum: u64 = pseudo.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(w[1])).sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            prop_assert_eq!(sum, 0xffff);
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}

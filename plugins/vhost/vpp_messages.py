"""The messages of VPP's binary API that the VPP engine uses, as VPP 23.10 to 26.06 define them.

VPP identifies a message by its name and CRC; a message that VPP defines differently counts as missing. Enumerations
are written as u32, and addresses as their parts, as they are on the wire.
"""

from __future__ import annotations

import json
from typing import Any

# Name, CRC, and fields after the header. The header is client_index and context; in a reply only context.
_REQUESTS = {
    "memif_socket_filename_add_del_v2": ("34223bdf", "bool is_add, u32 socket_id, string socket_filename"),
    "memif_socket_filename_dump": ("51077d14", ""),
    "memif_create": (
        "b1b25061",
        "u32 role, u32 mode, u8 rx_queues, u8 tx_queues, u32 id, u32 socket_id, u32 ring_size, u16 buffer_size, "
        "bool no_zero_copy, u8[6] hw_addr, string[24] secret",
    ),
    "memif_delete": ("f9e6675e", "u32 sw_if_index"),
    "memif_dump": ("51077d14", ""),
    "create_vhost_user_if_v2": (
        "dba1cc1d",
        "bool is_server, string[256] sock_filename, bool renumber, bool disable_mrg_rxbuf, "
        "bool disable_indirect_desc, bool enable_gso, bool enable_packed, bool enable_event_idx, "
        "u32 custom_dev_instance, bool use_custom_mac, u8[6] mac_address, string[64] tag",
    ),
    "delete_vhost_user_if": ("f9e6675e", "u32 sw_if_index"),
    "sw_interface_vhost_user_dump": ("f9e6675e", "u32 sw_if_index"),
    "sw_interface_dump": ("aa610c27", "u32 sw_if_index, bool name_filter_valid, string name_filter"),
    "sw_interface_set_flags": ("f5aec1b8", "u32 sw_if_index, u32 flags"),
    "sw_interface_set_mtu": ("5cbe85e5", "u32 sw_if_index, u32[4] mtu"),
    "sw_interface_add_del_address": (
        "5463d73b",
        "u32 sw_if_index, bool is_add, bool del_all, u8 family, u8[16] address, u8 length",
    ),
    "sw_interface_tag_add_del": ("426f8bc1", "bool is_add, u32 sw_if_index, string[64] tag"),
    "bridge_domain_add_del": (
        "600b7170",
        "u32 bd_id, bool flood, bool uu_flood, bool forward, bool learn, bool arp_term, bool arp_ufwd, u8 mac_age, "
        "string[64] bd_tag, bool is_add",
    ),
    "bridge_domain_dump": ("74396a43", "u32 bd_id, u32 sw_if_index"),
    "sw_interface_set_l2_bridge": (
        "d0678b13",
        "u32 rx_sw_if_index, u32 bd_id, u32 port_type, u8 shg, bool enable",
    ),
}
_RETVAL = ("e8d4e804", "i32 retval")  # the reply of any other request that is no dump
_REPLIES = {
    "memif_socket_filename_add_del_v2_reply": ("9f29bdb9", "i32 retval, u32 socket_id"),
    "memif_socket_filename_details": ("7ff326f7", "u32 socket_id, string[108] socket_filename"),
    "memif_create_reply": ("5383d31f", "i32 retval, u32 sw_if_index"),
    "memif_details": (
        "da34feb9",
        "u32 sw_if_index, u8[6] hw_addr, u32 id, u32 role, u32 mode, bool zero_copy, u32 socket_id, u32 ring_size, "
        "u16 buffer_size, u32 flags, string[64] if_name",
    ),
    "create_vhost_user_if_v2_reply": ("5383d31f", "i32 retval, u32 sw_if_index"),
    "sw_interface_vhost_user_details": (
        "0cee1e53",
        "u32 sw_if_index, string[64] interface_name, u32 virtio_net_hdr_sz, u32 features_first_32, "
        "u32 features_last_32, bool is_server, string[256] sock_filename, u32 num_regions, i32 sock_errno",
    ),
    "sw_interface_details": (
        "6c221fc7",
        "u32 sw_if_index, u32 sup_sw_if_index, u8[6] l2_address, u32 flags, u32 type, u32 link_duplex, "
        "u32 link_speed, u16 link_mtu, u32[4] mtu, u32 sub_id, u8 sub_number_of_tags, u16 sub_outer_vlan_id, "
        "u16 sub_inner_vlan_id, u32 sub_if_flags, u32 vtr_op, u32 vtr_push_dot1q, u32 vtr_tag1, u32 vtr_tag2, "
        "u16 outer_tag, u8[6] b_dmac, u8[6] b_smac, u16 b_vlanid, u32 i_sid, string[64] interface_name, "
        "string[64] interface_dev_type, string[64] tag",
    ),
    "bridge_domain_details": (
        "0fa506fd",
        "u32 bd_id, bool flood, bool uu_flood, bool forward, bool learn, bool arp_term, bool arp_ufwd, u8 mac_age, "
        "string[64] bd_tag, u32 bvi_sw_if_index, u32 uu_fwd_sw_if_index, u32 n_sw_ifs, "
        "bridge_domain_sw_if[n_sw_ifs] sw_if_details",
    ),
}
_TYPES = {"bridge_domain_sw_if": "u32 context, u32 sw_if_index, u8 shg"}


def definitions() -> str:
    """Return the definitions in the format of VPP's tools (.api.json), for the client library."""
    messages = [_message(name, "u32 client_index, u32 context", *rest) for name, rest in _REQUESTS.items()]
    services: dict[str, dict[str, Any]] = {}
    for name in _REQUESTS:
        if name.endswith("_dump"):
            services[name] = {"reply": f"{name.removesuffix('_dump')}_details", "stream": True}
        else:
            services[name] = {"reply": f"{name}_reply"}
        reply = services[name]["reply"]
        messages.append(_message(reply, "u32 context", *_REPLIES.get(reply, _RETVAL)))
    types = [[name, *_fields(fields)] for name, fields in _TYPES.items()]
    return json.dumps({"types": types, "messages": messages, "services": services})


def _message(name: str, header: str, crc: str, fields: str) -> list[Any]:
    return [name, ["u16", "_vl_msg_id"], *_fields(header), *_fields(fields), {"crc": f"0x{crc}"}]


def _fields(text: str) -> list[list[Any]]:
    return [_field(*field.split()) for field in text.split(", ") if field]


def _field(kind: str, name: str) -> list[Any]:
    """Return a field as in .api.json: type, name, and a length or the name of the field with the length."""
    kind, _, length = kind.removesuffix("]").partition("[")
    kind = f"vl_api_{kind}_t" if kind in _TYPES else kind
    if kind == "string" and not length:
        return [kind, name, 0]
    if not length:
        return [kind, name]
    return [kind, name, int(length)] if length.isdecimal() else [kind, name, 0, length]

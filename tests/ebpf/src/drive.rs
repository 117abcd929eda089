//! The driver: writes a frame, picks a flow for it, tail-calls.
//!
//! Beside the frame it touches one map entry of three cache lines, so it
//! leaves the caches to the program it measures. Fields are stored in the
//! sizes in which a program loads them: a load that spans two younger stores
//! would wait for both, which no frame from a device makes it do.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, ProgramArray},
    helpers::generated as helpers,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_bench::{Control, FRAME, Order, address_of, mix, port_of};

#[btf_map]
static CONTROL: Array<Control, 1> = Array::new();
/// The program measured.
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();

/// The client's address is the source.
const REQUEST: bool = false;
/// The client's address is the destination.
const REPLY: bool = true;

const TCP: usize = 16;
const UDP: usize = 6;

#[xdp]
fn tcp_v4(ctx: XdpContext) -> u32 {
    v4::<REQUEST, TCP>(&ctx)
}

#[xdp]
fn udp_v4(ctx: XdpContext) -> u32 {
    v4::<REQUEST, UDP>(&ctx)
}

#[xdp]
fn tcp_v4_reply(ctx: XdpContext) -> u32 {
    v4::<REPLY, TCP>(&ctx)
}

#[xdp]
fn tcp_v6(ctx: XdpContext) -> u32 {
    v6::<TCP>(&ctx)
}

#[xdp]
fn udp_v6(ctx: XdpContext) -> u32 {
    v6::<UDP>(&ctx)
}

#[xdp]
fn tcp_v4_short(ctx: XdpContext) -> u32 {
    if shorten(&ctx) { v4::<REQUEST, TCP>(&ctx) } else { xdp_action::XDP_ABORTED }
}

#[xdp]
fn udp_v4_short(ctx: XdpContext) -> u32 {
    if shorten(&ctx) { v4::<REQUEST, UDP>(&ctx) } else { xdp_action::XDP_ABORTED }
}

#[xdp]
fn tcp_v6_short(ctx: XdpContext) -> u32 {
    if shorten(&ctx) { v6::<TCP>(&ctx) } else { xdp_action::XDP_ABORTED }
}

/// For programs that put headers in front: takes away what the last run put there. The
/// helper is called in any case, so it is a part of the driver's cost alone, and does
/// not make the program's own call look cheaper.
#[inline(always)]
fn shorten(ctx: &XdpContext) -> bool {
    let surplus = (ctx.data_end() - ctx.data()) as i32 - FRAME as i32;
    // SAFETY: the context is valid; since Linux 4.10.
    unsafe { helpers::bpf_xdp_adjust_head(ctx.ctx, surplus) == 0 }
}

/// The same frame every time.
#[xdp]
fn same(ctx: XdpContext) -> u32 {
    let Some((control, frame)) = begin(&ctx) else { return xdp_action::XDP_ABORTED };
    copy_v4(control, frame);
    call(&ctx)
}

/// `L4_CHECK` is where the transport header keeps its checksum.
#[inline(always)]
fn v4<const REPLY: bool, const L4_CHECK: usize>(ctx: &XdpContext) -> u32 {
    let Some((control, frame)) = begin(ctx) else { return xdp_action::XDP_ABORTED };
    let (address, port) = next_flow(control);
    copy_v4(control, frame);
    let sum = (address & 0xffff) + (address >> 16);
    frame.store::<u16>(24, check(frame.template(control, 24), sum));
    frame.store::<u32>(if REPLY { 30 } else { 26 }, address);
    frame.store::<u32>(34, ports::<REPLY>(control, port));
    let at = 34 + L4_CHECK;
    frame.store::<u16>(at, check(frame.template(control, at), sum + u32::from(port)));
    call(ctx)
}

#[inline(always)]
fn v6<const L4_CHECK: usize>(ctx: &XdpContext) -> u32 {
    let Some((control, frame)) = begin(ctx) else { return xdp_action::XDP_ABORTED };
    let (address, port) = next_flow(control);
    copy_v6(control, frame);
    let sum = (address & 0xffff) + (address >> 16);
    let tail = frame.template::<u64>(control, 30) | u64::from(address) << 32;
    frame.store::<u64>(30, tail);
    frame.store::<u32>(54, ports::<REQUEST>(control, port));
    let at = 54 + L4_CHECK;
    frame.store::<u16>(at, check(frame.template(control, at), sum + u32::from(port)));
    call(ctx)
}

/// Both ports as they lie in the frame.
#[inline(always)]
fn ports<const REPLY: bool>(control: &Control, port: u16) -> u32 {
    if REPLY {
        control.other_port | u32::from(port) << 16
    } else {
        u32::from(port) | control.other_port << 16
    }
}

/// The checksum of a header whose words, apart from `more`, have the sum `sum`.
#[inline(always)]
fn check(sum: u16, more: u32) -> u16 {
    let sum = u32::from(sum) + more;
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

/// Address and port (network byte order) of the next packet's client.
#[inline(always)]
fn next_flow(control: &mut Control) -> (u32, u16) {
    let (offset, port) = if control.order == Order::Walk as u32 {
        let flow = control.index;
        let next = flow + control.step;
        control.index = if next >= control.flows { next - control.flows } else { next };
        (address_of(flow), port_of(flow))
    } else {
        control.count += 1;
        let random = mix(control.count);
        if control.order == Order::Scatter as u32 {
            let flow = (((random >> 32) * u64::from(control.flows)) >> 32) as u32;
            (address_of(flow), port_of(flow))
        } else {
            (random as u32 >> 3, (random >> 32) as u16)
        }
    };
    (control.first_address.wrapping_add(offset).to_be(), port.to_be())
}

#[inline(always)]
fn begin(ctx: &XdpContext) -> Option<(&'static mut Control, Frame)> {
    let data = ctx.data();
    if data + FRAME > ctx.data_end() {
        return None;
    }
    // SAFETY: the map's one entry, and only one CPU runs a measurement.
    let control = unsafe { &mut *CONTROL.get_ptr_mut(0)? };
    Some((control, Frame(data)))
}

#[inline(always)]
fn call(ctx: &XdpContext) -> u32 {
    // SAFETY: nothing here needs dropping; it returns only where the array is empty.
    unsafe { TARGET.tail_call(ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// The first [`FRAME`] bytes of the packet.
#[derive(Clone, Copy)]
struct Frame(usize);

impl Frame {
    #[inline(always)]
    fn store<T>(self, at: usize, value: T) {
        // SAFETY: every caller's offset is a constant within `FRAME`, which
        // `begin` checked and the verifier checks again. Words of a frame are
        // aligned to 2 bytes, which is enough for the machine.
        unsafe { *((self.0 + at) as *mut T) = value };
    }

    #[inline(always)]
    fn template<T: Copy>(self, control: &Control, at: usize) -> T {
        // SAFETY: as in `store`; the template has the size of the frame.
        unsafe { *control.template.as_ptr().add(at).cast::<T>() }
    }

    #[inline(always)]
    fn copy<T: Copy>(self, control: &Control, at: usize) {
        self.store::<T>(at, self.template(control, at));
    }
}

#[inline(always)]
fn copy_ethernet(control: &Control, frame: Frame) {
    frame.copy::<u64>(control, 0);
    frame.copy::<u32>(control, 8);
    frame.copy::<u16>(control, 12);
}

#[inline(always)]
fn copy_v4(control: &Control, frame: Frame) {
    copy_ethernet(control, frame);
    // Version to fragment offset; time to live to checksum; addresses; ports;
    // sequence numbers or the length of UDP; offset, flags, window; checksum.
    frame.copy::<u32>(control, 14);
    frame.copy::<u32>(control, 18);
    frame.copy::<u32>(control, 22);
    frame.copy::<u32>(control, 26);
    frame.copy::<u32>(control, 30);
    frame.copy::<u32>(control, 34);
    frame.copy::<u32>(control, 38);
    frame.copy::<u32>(control, 42);
    frame.copy::<u32>(control, 46);
    frame.copy::<u32>(control, 50);
}

#[inline(always)]
fn copy_v6(control: &Control, frame: Frame) {
    copy_ethernet(control, frame);
    frame.copy::<u32>(control, 14);
    frame.copy::<u32>(control, 18);
    // The two addresses, then the transport header.
    frame.copy::<u64>(control, 22);
    frame.copy::<u64>(control, 30);
    frame.copy::<u64>(control, 38);
    frame.copy::<u64>(control, 46);
    frame.copy::<u32>(control, 54);
    frame.copy::<u32>(control, 58);
    frame.copy::<u32>(control, 62);
    frame.copy::<u32>(control, 66);
    frame.copy::<u32>(control, 70);
}

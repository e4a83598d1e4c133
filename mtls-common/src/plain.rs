//! Every bit pattern of what the maps hold is a value, and no byte is padding.

macro_rules! plain {
    ($($name:ident),*) => {$(
        #[expect(unsafe_code, reason = "the marker of plain data is an unsafe trait")]
        // SAFETY: repr(C), integers only, all padding spelled out.
        unsafe impl aya::Pod for crate::maps::$name {}
    )*};
}
plain!(
    Node, Netns, Instance, FlowKey, Dialled, Place, AddressKey, NetworkKey, PortKey, AnswerKey,
    Answer
);

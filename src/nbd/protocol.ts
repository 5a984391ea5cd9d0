/**
 * Constants of the NBD protocol in its own spelling, so that one search finds code and
 * specification (doc/proto.md of github.com/NetworkBlockDevice/nbd; EXTENDED_HEADERS is on its
 * branch extension-ext-header). 64-bit magics are two u32, high half first.
 */

// Handshake
export const NBDMAGIC_HIGH = 0x4e42444d
export const NBDMAGIC_LOW = 0x41474943
export const IHAVEOPT_HIGH = 0x49484156
export const IHAVEOPT_LOW = 0x454f5054
export const NBD_REP_MAGIC_HIGH = 0x0003e889
export const NBD_REP_MAGIC_LOW = 0x045565a9

export const NBD_FLAG_FIXED_NEWSTYLE = 1 << 0
export const NBD_FLAG_NO_ZEROES = 1 << 1
export const NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0
export const NBD_FLAG_C_NO_ZEROES = 1 << 1

export const NBD_OPT_EXPORT_NAME = 1
export const NBD_OPT_ABORT = 2
export const NBD_OPT_LIST = 3
export const NBD_OPT_STARTTLS = 5
export const NBD_OPT_INFO = 6
export const NBD_OPT_GO = 7
export const NBD_OPT_STRUCTURED_REPLY = 8
export const NBD_OPT_LIST_META_CONTEXT = 9
export const NBD_OPT_SET_META_CONTEXT = 10
export const NBD_OPT_EXTENDED_HEADERS = 11
/** Our own: who writes again what it wrote names its session: u8 1 if it goes on, u64 its id. */
export const NBD_OPT_SESSION = 0x746f7273
export const SESSION_OPTION_BYTES = 9

export const NBD_REP_ACK = 1
export const NBD_REP_SERVER = 2
export const NBD_REP_INFO = 3
export const NBD_REP_META_CONTEXT = 4
const REP_ERROR = 2 ** 31
export const NBD_REP_ERR_UNSUP = REP_ERROR + 1
export const NBD_REP_ERR_POLICY = REP_ERROR + 2
export const NBD_REP_ERR_INVALID = REP_ERROR + 3
export const NBD_REP_ERR_PLATFORM = REP_ERROR + 4
export const NBD_REP_ERR_TLS_REQD = REP_ERROR + 5
export const NBD_REP_ERR_UNKNOWN = REP_ERROR + 6
export const NBD_REP_ERR_SHUTDOWN = REP_ERROR + 7
export const NBD_REP_ERR_BLOCK_SIZE_REQD = REP_ERROR + 8
export const NBD_REP_ERR_TOO_BIG = REP_ERROR + 9
export const NBD_REP_ERR_EXT_HEADER_REQD = REP_ERROR + 10
/** Our own: the session may not go on. */
export const NBD_REP_ERR_SESSION_OVER = REP_ERROR + 0x746f72

export const NBD_INFO_EXPORT = 0
export const NBD_INFO_NAME = 1
export const NBD_INFO_DESCRIPTION = 2
export const NBD_INFO_BLOCK_SIZE = 3

// Transmission flags
export const NBD_FLAG_HAS_FLAGS = 1 << 0
export const NBD_FLAG_READ_ONLY = 1 << 1
export const NBD_FLAG_SEND_FLUSH = 1 << 2
export const NBD_FLAG_SEND_FUA = 1 << 3
export const NBD_FLAG_ROTATIONAL = 1 << 4
export const NBD_FLAG_SEND_TRIM = 1 << 5
export const NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6
export const NBD_FLAG_SEND_DF = 1 << 7
export const NBD_FLAG_CAN_MULTI_CONN = 1 << 8
export const NBD_FLAG_SEND_CACHE = 1 << 10
export const NBD_FLAG_SEND_FAST_ZERO = 1 << 11
export const NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12

// Requests
export const NBD_REQUEST_MAGIC = 0x25609513
export const NBD_EXTENDED_REQUEST_MAGIC = 0x21e41c71

export const NBD_CMD_READ = 0
export const NBD_CMD_WRITE = 1
export const NBD_CMD_DISC = 2
export const NBD_CMD_FLUSH = 3
export const NBD_CMD_TRIM = 4
export const NBD_CMD_CACHE = 5
export const NBD_CMD_WRITE_ZEROES = 6
export const NBD_CMD_BLOCK_STATUS = 7

export const NBD_CMD_FLAG_FUA = 1 << 0
export const NBD_CMD_FLAG_NO_HOLE = 1 << 1
export const NBD_CMD_FLAG_DF = 1 << 2
export const NBD_CMD_FLAG_REQ_ONE = 1 << 3
export const NBD_CMD_FLAG_FAST_ZERO = 1 << 4
export const NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5

// Replies
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef
export const NBD_EXTENDED_REPLY_MAGIC = 0x6e8a278c

export const NBD_REPLY_FLAG_DONE = 1 << 0

export const NBD_REPLY_TYPE_NONE = 0
export const NBD_REPLY_TYPE_OFFSET_DATA = 1
export const NBD_REPLY_TYPE_OFFSET_HOLE = 2
export const NBD_REPLY_TYPE_BLOCK_STATUS = 5
export const NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6
export const NBD_REPLY_TYPE_ERROR = 2 ** 15 + 1
export const NBD_REPLY_TYPE_ERROR_OFFSET = 2 ** 15 + 2

export const NBD_STATE_HOLE = 1 << 0
export const NBD_STATE_ZERO = 1 << 1

export const NBD_EPERM = 1
export const NBD_EIO = 5
export const NBD_ENOMEM = 12
export const NBD_EINVAL = 22
export const NBD_ENOSPC = 28
export const NBD_EOVERFLOW = 75
export const NBD_ENOTSUP = 95
export const NBD_ESHUTDOWN = 108

/** "Strings … MUST be no longer than 4096 bytes." */
export const NBD_STRING_BYTES_MAX = 4096

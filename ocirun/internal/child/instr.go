package child

// The machine's operations.
const (
	codeSyscall = iota // dst = syscall nr(a...)
	codeLoad8          // dst = byte at memory offset a[0]
	codeLoad32         // dst = 32 bits at memory offset a[0]
	codeLoad64         // dst = 64 bits at memory offset a[0]
	codeStore32        // 32 bits at memory offset a[0] = a[1]
	codeStore64        // 64 bits at memory offset a[0] = a[1]
	codeAnd            // dst = a[0] & a[1]
	codeMove           // dst = a[0]
	codeJump           // go to target
	codeJumpEq         // go to target if a[0] == a[1]
	codeJumpNe         // go to target if a[0] != a[1]
	codeReport         // tell the parent {kind a[0], value a[1]}
	codeWait           // wait for a byte of the parent's
	codeFail           // fail as if a system call had returned errno a[0]
	codeExit           // end with status a[0]
)

// Reg is a register. Register 0 swallows what is written to it.
type Reg uint8

const numRegs = 200

// anyErrno matches every error.
const anyErrno = 0xffff

// Errno values of codeFail that no system call returns: failures that the machine
// finds by looking. The parent words them.
const (
	FailNotFound  = 0x1000 + iota // no candidate of the PATH lookup exists
	FailNotProc                   // a descriptor is not of the filesystem it must be of
	FailCwd                       // the working directory is outside the root
	FailNotDevice                 // a file is not the device it must be
	FailIsDir                     // the program is a directory
	FailHook                      // a hook ended with a status other than 0
	FailHookTime                  // a hook took too long
	FailParent                    // the parent has gone
)

// errJump says where to go on after an error.
type errJump struct {
	errno, target uint16
}

// instr is an instruction. Its size matters: a container takes about 500.
type instr struct {
	code, dst uint8
	regs      uint8 // bit i: a[i] is a register's number
	op        uint16
	target    uint16
	errs      [3]errJump
	nr        uint32
	a         [6]uintptr
}

// Kind is the kind of a message from child to parent.
type Kind uint32

// The kinds.
const (
	// KindFailed ends the child: instruction PC of operation Op got errno Value.
	KindFailed Kind = 1 + iota
	// KindTailFailed is the same from the tail: PC is the number of the call.
	KindTailFailed
	// KindStage says that the child has reached a rung; Value says which.
	KindStage
	// KindPID says that the process made by a joining stage has pid Value.
	KindPID
	// KindWarn says that something optional failed: errno Value in operation Op.
	KindWarn
)

// Message is what the child tells its parent.
type Message struct {
	Kind          Kind
	Op, PC, Value uint32
}

// MessageSize is the size of a message on the wire: four words in host order.
const MessageSize = 16

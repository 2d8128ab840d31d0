package names

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of the cache of one container.
const (
	maxEntries  = 256
	maxCached   = 128 << 10 // bytes of answers
	maxEntry    = 8 << 10   // bytes of one answer
	maxTTL      = 3600      // seconds
	maxNegative = 60        // seconds that "there is nothing" is believed
)

// cache keeps answers as long as they say.
type cache struct {
	mu      sync.Mutex
	entries map[string]*entry
	size    int
}

type entry struct {
	reply   []byte
	ttls    []int // where in reply
	at, end time.Time
}

func newCache() *cache { return &cache{} } // the map is made with the first entry

// get returns a copy of a kept answer that is one to q, or nil.
//
// Preconditions: key is q's, and q.key has said that it is ok.
func (c *cache) get(key string, q *query, now time.Time) []byte {
	c.mu.Lock()
	e := c.entries[key]
	if e != nil && !now.Before(e.end) {
		c.removeLocked(key, e)
		e = nil
	}
	c.mu.Unlock()
	if e == nil {
		return nil
	}
	reply := append([]byte(nil), e.reply...) // entries do not change
	binary.BigEndian.PutUint16(reply, q.header.ID)
	age := uint32(now.Sub(e.at) / time.Second)
	for _, at := range e.ttls {
		left := binary.BigEndian.Uint32(reply[at:])
		binary.BigEndian.PutUint32(reply[at:], left-min(left, age))
	}
	// The question as this client wrote it: some check the case of letters.
	copy(reply[headerLen:headerLen+q.nameLen()], q.raw[headerLen:])
	return reply
}

// put keeps a reply to q, if it may be kept.
func (c *cache) put(key string, q *query, reply []byte, now time.Time) {
	ttl, ttls, ok := lifetime(reply)
	if !ok || skipName(reply, headerLen) != headerLen+q.nameLen() || ttl == 0 || len(reply) > maxEntry || reply[2]&flagTruncated != 0 {
		return
	}
	e := &entry{reply: append([]byte(nil), reply...), ttls: ttls, at: now, end: now.Add(time.Duration(ttl) * time.Second)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[string]*entry{}
	}
	if old := c.entries[key]; old != nil {
		c.removeLocked(key, old)
	}
	c.makeRoomLocked(len(reply), now)
	c.entries[key] = e
	c.size += len(e.reply)
}

// makeRoomLocked removes what is too old, then anything.
func (c *cache) makeRoomLocked(size int, now time.Time) {
	full := func() bool { return len(c.entries) >= maxEntries || c.size+size > maxCached }
	for _, all := range []bool{false, true} {
		for key, e := range c.entries {
			if !full() {
				return
			}
			if all || !now.Before(e.end) {
				c.removeLocked(key, e)
			}
		}
	}
}

func (c *cache) removeLocked(key string, e *entry) {
	if c.entries[key] == e {
		delete(c.entries, key)
		c.size -= len(e.reply)
	}
}

const (
	headerLen = 12
	fixedLen  = 10 // of a record behind its name: type, class, TTL, length
	soaTail   = 20 // of an SOA record: serial, refresh, retry, expire, minimum
)

// lifetime returns how many seconds a reply is good and where its TTLs are. ok is false for
// one that cannot be read, or that says nothing about its life.
func lifetime(msg []byte) (ttl uint32, ttls []int, ok bool) {
	if len(msg) < headerLen {
		return 0, nil, false
	}
	count := func(i int) int { return int(binary.BigEndian.Uint16(msg[4+2*i:])) }
	at := headerLen
	for range count(0) {
		if at = skipName(msg, at); at < 0 || at+4 > len(msg) {
			return 0, nil, false
		}
		at += 4
	}
	answers := count(1)
	negative := answers == 0 || msg[3]&0x0f != 0
	life := uint32(maxTTL)
	for i := range answers + count(2) + count(3) {
		if at = skipName(msg, at); at < 0 || at+fixedLen > len(msg) {
			return 0, nil, false
		}
		kind := dnsmessage.Type(binary.BigEndian.Uint16(msg[at:]))
		left, length := binary.BigEndian.Uint32(msg[at+4:]), int(binary.BigEndian.Uint16(msg[at+8:]))
		end := at + fixedLen + length
		if end > len(msg) {
			return 0, nil, false
		}
		if kind != dnsmessage.TypeOPT { // its TTL is none
			ttls = append(ttls, at+4)
			if i < answers {
				life, ok = min(life, left), true
			}
			if kind == dnsmessage.TypeSOA && negative && length >= soaTail {
				life, ok = min(life, left, binary.BigEndian.Uint32(msg[end-4:]), maxNegative), true // RFC 2308, 5
			}
		}
		at = end
	}
	return life, ttls, ok && at == len(msg)
}

// skipName returns where a name that begins at at ends, or -1.
func skipName(msg []byte, at int) int {
	for at >= 0 && at < len(msg) {
		switch n := int(msg[at]); {
		case n == 0:
			return at + 1
		case n&0xc0 == 0xc0:
			if at+2 > len(msg) {
				return -1
			}
			return at + 2
		case n&0xc0 != 0:
			return -1
		default:
			at += 1 + n
		}
	}
	return -1
}

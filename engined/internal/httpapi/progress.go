package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/docker/go-units"

	"strata/engined/internal/images"
)

// progressStream answers with docker's progress messages: JSON objects, each ended by
// CRLF and sent at once. The answer begins with the first message, so that an error before
// it still has a status of its own.
type progressStream struct {
	w      http.ResponseWriter
	legacy bool // the client wants the bar drawn (API before 1.48)

	mu    sync.Mutex
	began bool
	err   error // of the connection
}

func newProgressStream(w http.ResponseWriter, r *request) *progressStream {
	return &progressStream{w: w, legacy: !r.AtLeast("1.48")}
}

// progressMessage is one message on the wire, in dockerd's order of fields.
type progressMessage struct {
	Stream   string          `json:"stream,omitempty"`
	Status   string          `json:"status,omitempty"`
	Detail   *progressDetail `json:"progressDetail,omitempty"`
	Progress string          `json:"progress,omitempty"`
	ID       string          `json:"id,omitempty"`
	Error    *progressError  `json:"errorDetail,omitempty"`
	Message  string          `json:"error,omitempty"`
	Aux      any             `json:"aux,omitempty"`
}

type progressDetail struct {
	Current int64 `json:"current,omitempty"`
	Total   int64 `json:"total,omitempty"`
}

type progressError struct {
	Code    int    `json:"code,omitempty"`
	Message string `json:"message"`
}

// send writes one line of progress.
func (p *progressStream) send(m images.Progress) {
	wire := progressMessage{Stream: m.Stream, Status: m.Status, ID: m.ID, Aux: m.Aux}
	if m.Detail {
		wire.Detail = &progressDetail{m.Current, m.Total}
		if p.legacy && m.Total > 0 {
			wire.Progress = bar(m.Current, m.Total)
		}
	}
	p.write(wire)
}

func (p *progressStream) write(m progressMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	if !p.began {
		p.began = true
		p.w.Header().Set("Content-Type", "application/json")
		p.w.WriteHeader(http.StatusOK)
	}
	raw, err := json.Marshal(m)
	if err == nil {
		_, err = p.w.Write(append(raw, '\r', '\n'))
	}
	if err == nil {
		err = http.NewResponseController(p.w).Flush()
	}
	p.err = err // the client is gone; the work goes on
}

// end returns err if the answer has not begun, and else makes it the last message.
func (p *progressStream) end(err error) error {
	if err == nil {
		p.mu.Lock()
		began := p.began
		p.mu.Unlock()
		if !began {
			p.w.Header().Set("Content-Type", "application/json")
			p.w.WriteHeader(http.StatusOK)
		}
		return nil
	}
	p.mu.Lock()
	began := p.began
	p.mu.Unlock()
	if !began {
		return err
	}
	text := message(err)
	p.write(progressMessage{Error: &progressError{Message: text}, Message: text})
	return nil
}

// barWidth is how many characters dockerd draws for clients that cannot.
const barWidth = 50

// bar draws "[=====>     ]  1.2MB/3.4MB".
func bar(current, total int64) string {
	n := int(min(max(current, 0), total) * barWidth / total)
	drawn := strings.Repeat("=", n)
	if n < barWidth {
		drawn += ">" + strings.Repeat(" ", barWidth-n-1)
	}
	return fmt.Sprintf("[%s] %8v/%v", drawn, units.HumanSize(float64(current)), units.HumanSize(float64(total)))
}

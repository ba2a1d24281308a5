package shim

import (
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/myshim/myshim/shim/command"
)

// featuresType is what containerd registers for the runtime-spec's Features,
// whose value is JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// info answers -info. Options are returned as they came: of whatever type they
// are, what this runtime can do does not depend on them.
func (r Runtime) info(stdin io.Reader, stdout io.Writer) error {
	input, err := command.ReadInput(stdin)
	if err != nil {
		return err
	}
	var options *anypb.Any
	if len(input) > 0 {
		options = new(anypb.Any)
		if err := proto.Unmarshal(input, options); err != nil {
			return fmt.Errorf("stdin holds no options: %w", err)
		}
	}
	features, err := r.Features()
	if err != nil {
		return fmt.Errorf("features: %w", err)
	}
	answer, err := proto.Marshal(&types.RuntimeInfo{
		Name:        r.Name,
		Version:     &types.RuntimeVersion{Version: r.Version, Revision: r.Revision},
		Options:     options,
		Features:    &anypb.Any{TypeUrl: featuresType, Value: features},
		Annotations: r.Annotations,
	})
	if err == nil {
		_, err = stdout.Write(answer)
	}
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

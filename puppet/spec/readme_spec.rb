# frozen_string_literal: true

readme = File.read(File.expand_path('../README.md', __dir__))

describe 'gateway.example.com', type: :host do
  blocks = readme.scan(%r{^```puppet\n(.*?)^```$}m).flatten
  blocks.each_with_index do |block, index|
    context "with example #{index + 1} of README.md" do
      let(:pre_condition) { "service { 'app': }\npackage { 'app': }\n#{block}" }

      it { is_expected.to compile.with_all_deps }
    end
  end

  it 'has examples to test' do
    expect(blocks.size).to be >= 6
  end

  it 'describes every parameter of the type' do
    parameters = Puppet::Type.type(:http).parameters + [:ensure] - [:name, :provider]
    expect(parameters.reject { |name| readme.include?("| `#{name}` |") }).to eq([])
  end
end

# The data of the README, as the class takes it.
describe 'bridgeward', type: :class do
  let(:params) do
    data = YAML.safe_load(readme[%r{^```yaml\n(.*?)^```$}m, 1].sub("'...'", "'a-secret-of-jenkins'"))
    data.to_h { |name, value| [name.delete_prefix('bridgeward::'), value] }
  end

  it { is_expected.to compile.with_all_deps }
  it { is_expected.to contain_bridgeward__route('kick_haproxy_app_internal') }
end
